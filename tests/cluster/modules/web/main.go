// A tiny server for the self-test of the cluster, and a client to run in its pod.
//
//	web              answers with VERSION on port 8080
//	web get URL      prints what URL answers; with the pod's token where it is https
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) == 3 && os.Args[1] == "get" {
		if err := get(os.Args[2]); err != nil {
			log.Fatal(err)
		}
		return
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "version", os.Getenv("VERSION"))
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
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
