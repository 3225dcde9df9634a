// A Go service: net/http in and out, the default transport and its pool.
//
//	service port=N routes=FILE [next=HOST:PORT] [copy=1] [background=FILE every=MS]
package main

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

type route struct {
	delay time.Duration
	size  int
	calls []string
}

var (
	settings = map[string]string{}
	table    = map[string]route{}
	filler   = bytes.Repeat([]byte("."), 4096)
)

func lines(path string) []string {
	if path == "" {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	return strings.Fields(strings.ReplaceAll(string(text), "\t", ";"))
}

func call(path string, from http.Header) {
	request, err := http.NewRequest("GET", "http://"+settings["next"]+path, nil)
	if err != nil {
		log.Fatal(err)
	}
	if settings["copy"] != "" {
		for _, name := range []string{"Traceparent", "Tracestate"} {
			if value := from.Get(name); value != "" {
				request.Header.Set(name, value)
			}
		}
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		log.Print(err)
		return
	}
	io.Copy(io.Discard, response.Body)
	response.Body.Close()
}

func serve(w http.ResponseWriter, r *http.Request) {
	todo := table[r.URL.Path]
	time.Sleep(todo.delay)
	for _, path := range todo.calls {
		call(path, r.Header)
	}
	w.Header().Set("Content-Length", strconv.Itoa(todo.size))
	w.Write(filler[:todo.size])
}

func main() {
	for _, argument := range os.Args[1:] {
		key, value, _ := strings.Cut(argument, "=")
		settings[key] = value
	}
	for _, line := range lines(settings["routes"]) {
		field := strings.Split(line, ";")
		delay, _ := strconv.Atoi(field[1])
		size, _ := strconv.Atoi(field[2])
		todo := route{delay: time.Duration(delay) * time.Millisecond, size: size}
		for _, path := range field[3:] {
			if path != "" {
				todo.calls = append(todo.calls, path)
			}
		}
		table[field[0]] = todo
	}
	every, err := strconv.Atoi(settings["every"])
	if err != nil {
		every = 20
	}
	go func() {
		for _, path := range lines(settings["background"]) {
			time.Sleep(time.Duration(every) * time.Millisecond)
			call(path, http.Header{})
		}
	}()
	log.Fatal(http.ListenAndServe("127.0.0.1:"+settings["port"], http.HandlerFunc(serve)))
}
