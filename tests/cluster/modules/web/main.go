// A tiny server for the self-test of the cluster, and clients to ask it.
//
//	web                  answers with VERSION on port 8080: HTTP/1, HTTP/2 and gRPC, without TLS
//	web get URL          prints what URL answers; with the pod's token where it is https
//	web count [OPTION]... URL
//	                     asks many times, and prints how many answers each version gave; see its -help
//
// The server has /count (how many requests of others it has answered), /metrics (the same for Prometheus) and /burn
// (20 ms of CPU).
package main

import (
	"crypto/tls"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

func main() {
	log.SetFlags(0)
	var err error
	switch {
	case len(os.Args) == 1:
		err = serve(os.Getenv("VERSION"))
	case len(os.Args) == 3 && os.Args[1] == "get":
		err = get(os.Args[2])
	case os.Args[1] == "count":
		err = count(os.Args[2:])
	default:
		log.Fatal("usage: web, web get URL, or web count [OPTION]... URL")
	}
	if err != nil {
		log.Fatal(err)
	}
}

func serve(version string) error {
	var answered atomic.Int64
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answered.Add(1)
		w.Header().Set("Version", version)
		if r.Header.Get("Content-Type") == "application/grpc" {
			w.Header().Set("Content-Type", "application/grpc")
			w.Write(grpcMessage(nil))
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
			return
		}
		fmt.Fprintln(w, "version", version)
	})
	http.HandleFunc("/burn", func(w http.ResponseWriter, r *http.Request) {
		answered.Add(1)
		w.Header().Set("Version", version)
		for end := time.Now().Add(20 * time.Millisecond); time.Now().Before(end); {
		}
	})
	http.HandleFunc("/count", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, answered.Load()) })
	http.HandleFunc("/metrics", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "# TYPE web_requests_total counter\nweb_requests_total{version=%q} %d\n", version, answered.Load())
	})
	server := http.Server{Addr: ":8080", Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	return server.ListenAndServe()
}

// grpcMessage puts the head of gRPC before a message: not compressed, and its length.
func grpcMessage(message []byte) []byte {
	head := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return append(head, message...)
}

func get(url string) error {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if strings.HasPrefix(url, "https:") {
		token, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/token")
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+string(token))
	}
	client := http.Client{
		Timeout: 3 * time.Second,
		// the self-test asks whether it is reachable, not who it is
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	fmt.Print(response.StatusCode, " ")
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}

// count asks as -sessions clients of -n requests each, one after the other. It prints a line "VERSION ANSWERS" for
// each version, "status CODE ANSWERS" or "failed ANSWERS" for what was no good answer, and with cookies also "torn
// SESSIONS": those that more than one version answered.
func count(args []string) error {
	flags := flag.NewFlagSet("count", flag.ExitOnError)
	n := flags.Int("n", 1000, "requests of each session")
	sessions := flags.Int("sessions", 1, "clients")
	cookies := flags.Bool("cookies", false, "each session keeps its cookies")
	grpc := flags.Bool("grpc", false, "gRPC calls")
	host := flags.String("host", "", "name of the host to ask for, where it is not URL's")
	header := flags.String("header", "", "one more header, NAME:VALUE")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return fmt.Errorf("expected one URL, found %d", flags.NArg())
	}
	ask := func(client *http.Client) string {
		body := io.Reader(http.NoBody)
		method := http.MethodGet
		if *grpc {
			body, method = strings.NewReader(string(grpcMessage(nil))), http.MethodPost
		}
		request, err := http.NewRequest(method, flags.Arg(0), body)
		if err != nil {
			log.Fatal(err)
		}
		if *host != "" {
			request.Host = *host
		}
		if name, value, given := strings.Cut(*header, ":"); given {
			request.Header.Set(name, value)
		}
		if *grpc {
			request.Header.Set("Content-Type", "application/grpc")
			request.Header.Set("TE", "trailers")
		}
		return answer(client, request)
	}
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(!*grpc)
	transport.Protocols.SetUnencryptedHTTP2(*grpc)
	answers := map[string]int{}
	torn := 0
	for range *sessions {
		client := &http.Client{Timeout: 3 * time.Second, Transport: transport}
		if *cookies {
			client.Jar, _ = cookiejar.New(nil) // it fails only with options
		}
		seen := map[string]bool{}
		for range *n {
			who := ask(client)
			answers[who]++
			seen[who] = true
		}
		if len(seen) > 1 {
			torn++
		}
	}
	lines := []string{}
	for who, number := range answers {
		lines = append(lines, fmt.Sprintln(who, number))
	}
	slices.Sort(lines)
	if *cookies {
		lines = append(lines, fmt.Sprintln("torn", torn))
	}
	fmt.Print(strings.Join(lines, ""))
	return nil
}

// answer is the version that answered the request well, or what happened instead.
func answer(client *http.Client, request *http.Request) string {
	response, err := client.Do(request)
	if err != nil {
		return "failed"
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return "failed"
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Sprint("status ", response.StatusCode)
	}
	if status := response.Trailer.Get("Grpc-Status") + response.Header.Get("Grpc-Status"); status != "" && status != "0" {
		return "grpc " + status
	}
	return response.Header.Get("Version")
}
