// A Go service: net/http in and out, the default transport and its pool.
//
//	service port=N routes=FILE [next=HOST:PORT] [copy=1] [background=FILE every=MS] [style=STYLE] [context=1]
//
// Styles: inline (the handler calls), fan (a goroutine for each call, waited for), nested (a goroutine of a goroutine),
// late (the handler answers, a goroutine of its calls afterwards), pool (eight workers and a queue with a backlog; the
// handler waits for the answer), lazy (as pool, but the first request starts the workers), drain (a goroutine that a
// request starts if none is there, and that works until the queue is empty, for whomever that was), collect (as fan, but
// the handler receives what each sends), flush (goroutines that nobody waits for, but that all are in one WaitGroup, and
// every third request waits for that), tokens (as lazy, but nobody waits for a job: handlers and workers hand each other
// tokens). With context=1 the request's context is passed with each call, without it none is.
package main

import (
	"bytes"
	"context"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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

func call(ctx context.Context, path string, from http.Header) {
	request, err := http.NewRequestWithContext(ctx, "GET", "http://"+settings["next"]+path, nil)
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
	ctx  context.Context
	path string
	from http.Header
	done chan struct{}
}

var jobs = make(chan job, 1024)

func work() {
	for job := range jobs {
		call(job.ctx, job.path, job.from)
		job.done <- struct{}{}
	}
}

var workers sync.Once

func startWorkers() {
	for worker := 0; worker < 8; worker++ {
		go work()
	}
}

var mailbox struct {
	sync.Mutex
	waiting []job
	drains  int
}

// At most four goroutines drain the mailbox, each until it is empty.
func post(one job) {
	mailbox.Lock()
	defer mailbox.Unlock()
	mailbox.waiting = append(mailbox.waiting, one)
	if mailbox.drains < 4 {
		mailbox.drains++
		go drain()
	}
}

func drain() {
	for {
		mailbox.Lock()
		if len(mailbox.waiting) == 0 {
			mailbox.drains--
			mailbox.Unlock()
			return
		}
		one := mailbox.waiting[0]
		mailbox.waiting = mailbox.waiting[1:]
		mailbox.Unlock()
		call(one.ctx, one.path, one.from)
		close(one.done)
	}
}

type pending struct{ all sync.WaitGroup }

var (
	flushing sync.Mutex
	inFlight = &pending{}
	requests atomic.Int64
	tokens   = make(chan struct{}, 4)
)

func detach(pending *pending, path string, from http.Header) {
	defer pending.all.Done()
	time.Sleep(2 * time.Millisecond)
	call(context.Background(), path, from)
}

var tokenWorkers sync.Once

func takeTokens(jobs chan job, tokens chan struct{}) {
	for job := range jobs {
		call(job.ctx, job.path, job.from)
		tokens <- struct{}{}
	}
}

func startTokens() {
	for worker := 0; worker < 4; worker++ {
		tokens <- struct{}{}
		go takeTokens(jobs, tokens)
	}
}

func serve(w http.ResponseWriter, r *http.Request) {
	todo := table[r.URL.Path]
	time.Sleep(todo.delay)
	ctx := context.Background()
	if settings["context"] != "" {
		// As programs do: with something of their own between the request's and the call's.
		type key struct{}
		ctx = context.WithValue(r.Context(), key{}, r.URL.Path)
	}
	var all sync.WaitGroup
	results := make(chan string)
	for _, path := range todo.calls {
		path := path
		switch settings["style"] {
		case "fan":
			all.Add(1)
			go func() {
				defer all.Done()
				call(ctx, path, r.Header)
			}()
		case "nested":
			all.Add(1)
			go func() {
				go func() {
					defer all.Done()
					call(ctx, path, r.Header)
				}()
			}()
		case "collect":
			go func() {
				call(ctx, path, r.Header)
				results <- path
			}()
		case "flush":
			flushing.Lock()
			inFlight.all.Add(1)
			go detach(inFlight, path, r.Header.Clone())
			flushing.Unlock()
		case "tokens":
			tokenWorkers.Do(startTokens)
			<-tokens
			jobs <- job{ctx, path, r.Header.Clone(), nil}
		case "late":
			from := r.Header.Clone()
			go func() {
				time.Sleep(3 * time.Millisecond)
				call(context.Background(), path, from)
			}()
		case "pool", "lazy":
			workers.Do(startWorkers)
			done := make(chan struct{})
			jobs <- job{ctx, path, r.Header, done}
			<-done
		case "drain":
			done := make(chan struct{})
			post(job{ctx, path, r.Header, done})
			<-done
		default:
			call(ctx, path, r.Header)
		}
	}
	all.Wait()
	if settings["style"] == "collect" {
		for range todo.calls {
			<-results
		}
	}
	if settings["style"] == "flush" && requests.Add(1)%3 == 0 {
		// Nothing may be added to a WaitGroup that is waited for: what comes now goes into the next.
		flushing.Lock()
		all := inFlight
		inFlight = &pending{}
		flushing.Unlock()
		all.all.Wait()
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
			call(context.Background(), path, http.Header{})
		}
	}()
	if settings["style"] == "pool" {
		workers.Do(startWorkers)
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+settings["port"], http.HandlerFunc(serve)))
}
