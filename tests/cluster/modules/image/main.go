// Command image writes a docker archive with one layer: files copied from this machine.
//
//	image -o OUT.tar -ref NAME:TAG -entrypoint PATH [-env K=V]... SRC=DST...
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"io"
	"log"
	"os"
	"path"
	"sort"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// user is the unprivileged user that every image runs as.
const user = "65532:65532"

// mountpoints are folders that a container runtime mounts things on.
var mountpoints = []string{"dev", "etc", "proc", "sys", "tmp"}

type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	log.SetFlags(0)
	log.SetPrefix("image: ")
	var env list
	out := flag.String("o", "", "archive to write")
	ref := flag.String("ref", "", "name and tag of the image")
	entrypoint := flag.String("entrypoint", "", "path of the program in the image")
	flag.Var(&env, "env", "variable of the image, NAME=VALUE (repeatable)")
	flag.Parse()
	if err := build(*out, *ref, *entrypoint, env, flag.Args()); err != nil {
		log.Fatal(err)
	}
}

func build(out, ref, entrypoint string, env, files []string) error {
	tag, err := name.NewTag(ref, name.WithDefaultRegistry(""))
	if err != nil {
		return err
	}
	content, err := archive(files)
	if err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	})
	if err != nil {
		return err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	image, err = mutate.ConfigFile(image, describe(image, entrypoint, env))
	if err != nil {
		return err
	}
	return tarball.WriteToFile(out, tag, image)
}

func describe(image v1.Image, entrypoint string, env []string) *v1.ConfigFile {
	config, err := image.ConfigFile()
	if err != nil {
		log.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS = "linux"
	config.Architecture = "amd64"
	config.Config = v1.Config{
		Entrypoint: []string{entrypoint},
		Env:        append([]string{"PATH=/"}, env...),
		WorkingDir: "/",
		User:       user,
	}
	return config
}

// archive packs SRC=DST pairs, following symbolic links, with the folders they need.
func archive(files []string) ([]byte, error) {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	folders := map[string]bool{}
	for _, m := range mountpoints {
		folders[m] = true
	}
	for _, f := range files {
		_, dst, _ := strings.Cut(f, "=")
		for d := path.Dir(strings.Trim(dst, "/")); d != "."; d = path.Dir(d) {
			folders[d] = true
		}
	}
	names := make([]string, 0, len(folders))
	for d := range folders {
		names = append(names, d)
	}
	sort.Strings(names)
	for _, d := range names {
		mode := int64(0o755)
		if d == "tmp" {
			mode = 0o1777
		}
		if err := w.WriteHeader(&tar.Header{Name: d + "/", Typeflag: tar.TypeDir, Mode: mode}); err != nil {
			return nil, err
		}
	}
	for _, f := range files {
		src, dst, _ := strings.Cut(f, "=")
		b, err := os.ReadFile(src)
		if err != nil {
			return nil, err
		}
		h := &tar.Header{Name: strings.Trim(dst, "/"), Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(b))}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(b); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return buffer.Bytes(), err
}
