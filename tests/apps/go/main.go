// A Go service: net/http in and out, the default transport and its pool.
//
//	service port=N routes=FILE [next=HOST:PORT] [copy=1] [background=FILE every=MS] [style=STYLE]
//
// Styles: inline (the handler calls), fan (a goroutine for each call, waited for), nested (a goroutine of a goroutine),
// late (the handler answers, a goroutine of its calls afterwards), pool (eight workers and a queue with a backlog, no
// context passed; the handler waits for the answer).
package main

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
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

type job struct {
	path string
	from http.Header
	done chan struct{}
}

var jobs = make(chan job, 1024)

func work() {
	for job := range jobs {
		call(job.path, job.from)
		job.done <- struct{}{}
	}
}

func serve(w http.ResponseWriter, r *http.Request) {
	todo := table[r.URL.Path]
	time.Sleep(todo.delay)
	var all sync.WaitGroup
	for _, path := range todo.calls {
		path := path
		switch settings["style"] {
		case "fan":
			all.Add(1)
			go func() {
				defer all.Done()
				call(path, r.Header)
			}()
		case "nested":
			all.Add(1)
			go func() {
				go func() {
					defer all.Done()
					call(path, r.Header)
				}()
			}()
		case "late":
			from := r.Header.Clone()
			go func() {
				time.Sleep(3 * time.Millisecond)
				call(path, from)
			}()
		case "pool":
			done := make(chan struct{})
			jobs <- job{path, r.Header, done}
			<-done
		default:
			call(path, r.Header)
		}
	}
	all.Wait()
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
	for worker := 0; worker < 8; worker++ {
		go work()
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+settings["port"], http.HandlerFunc(serve)))
}
