// HTTP/1.1 over TLS with Go's own crypto/tls, and its client.
//
//	tls_go serve PORT CERTIFICATE KEY [1.2]
//	tls_go client PORT PREFIX COUNT CONCURRENCY PER_CONNECTION
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

func main() {
	style, port, rest := os.Args[1], os.Args[2], os.Args[3:]
	if style == "serve" {
		body := strings.Repeat("x", 200)
		http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, body) })
		server := &http.Server{Addr: "127.0.0.1:" + port, TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}}
		if len(rest) > 2 && rest[2] == "1.2" {
			server.TLSConfig = &tls.Config{MaxVersion: tls.VersionTLS12}
		}
		log.Fatal(server.ListenAndServeTLS(rest[0], rest[1]))
	}
	count, _ := strconv.Atoi(rest[1])
	concurrency, _ := strconv.Atoi(rest[2])
	perConnection, _ := strconv.Atoi(rest[3])
	var next atomic.Int64
	var all sync.WaitGroup
	for i := 0; i < concurrency; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			var client *http.Client
			for used := 0; ; used++ {
				number := int(next.Add(1)) - 1
				if number >= count {
					return
				}
				if client == nil || used%perConnection == 0 {
					if client != nil {
						client.CloseIdleConnections()
					}
					client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
				}
				response, err := client.Get(fmt.Sprintf("https://127.0.0.1:%s%s-%d", port, rest[0], number))
				if err != nil {
					log.Fatal(err)
				}
				io.Copy(io.Discard, response.Body)
				response.Body.Close()
			}
		}()
	}
	all.Wait()
}
