// gRPC peer: grpc-go. What the arguments mean and what a body asks for: tests/src/grpc/calls.rs.
// No generated code: bytes in, bytes out, any method name. It must never know that it is traced.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

type plain struct{}

func (plain) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (plain) Unmarshal(data []byte, v any) error { *v.(*[]byte) = append([]byte(nil), data...); return nil }
func (plain) Name() string                       { return "plain" }

type wish map[string]string

func fields(text string) wish {
	all := wish{}
	for _, word := range strings.Split(text, " ") {
		if key, value, ok := strings.Cut(word, "="); ok {
			all[key] = value
		}
	}
	return all
}

func wished(body []byte) wish {
	line, _, _ := strings.Cut(string(body), "\n")
	return fields(line)
}

func (w wish) number(key string, otherwise int) int {
	if n, err := strconv.Atoi(w[key]); err == nil {
		return n
	}
	return otherwise
}

func (w wish) pause(key string) { time.Sleep(time.Duration(w.number(key, 0)) * time.Millisecond) }

func keys(md metadata.MD, spec, prefix string) metadata.MD {
	var count, length int
	fmt.Sscanf(spec, "%dx%d", &count, &length)
	for n := 0; n < count; n++ {
		md.Set(fmt.Sprintf("%s-%d", prefix, n), strings.Repeat(string(rune('a'+n%26)), length))
	}
	return md
}

func message(w wish) *[]byte {
	m := []byte(strings.Repeat("x", w.number("z", 20)))
	return &m
}

func answer(w wish, stream grpc.ServerStream) error {
	if spec, ok := w["h"]; ok {
		stream.SendHeader(keys(metadata.MD{}, spec, "x-reply"))
	}
	w.pause("d")
	if code := w.number("s", 0); code != 0 {
		return status.Error(codes.Code(code), "no such thing")
	}
	return nil
}

func handle(_ any, stream grpc.ServerStream) error {
	path, _ := grpc.MethodFromServerStream(stream)
	last := path[strings.LastIndex(path, "/")+1:]
	both, server := strings.HasPrefix(last, "Both"), strings.HasPrefix(last, "Server")
	var w wish
	for {
		var request []byte
		err := stream.RecvMsg(&request)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if w == nil {
			w = wished(request)
		}
		if both {
			if err := stream.SendMsg(message(w)); err != nil {
				return err
			}
		}
		if server {
			break
		}
	}
	if server {
		for n := 0; n < w.number("n", 1); n++ {
			if err := stream.SendMsg(message(w)); err != nil {
				return err
			}
			w.pause("i")
		}
	}
	if err := answer(w, stream); err != nil {
		return err
	}
	if both || server {
		return nil
	}
	return stream.SendMsg(message(w))
}

func serve(given wish) {
	listener, err := net.Listen("tcp", "127.0.0.1:"+given["port"])
	if err != nil {
		panic(err)
	}
	options := []grpc.ServerOption{grpc.ForceServerCodec(plain{}), grpc.UnknownServiceHandler(handle), grpc.MaxRecvMsgSize(1 << 30)}
	if file, ok := given["certificate"]; ok {
		secure, err := credentials.NewServerTLSFromFile(file, given["key"])
		if err != nil {
			panic(err)
		}
		options = append(options, grpc.Creds(secure))
	}
	server := grpc.NewServer(options...)
	stopped := make(chan struct{})
	if file, ok := given["stop"]; ok {
		go func() {
			appears(file)
			server.GracefulStop()
			close(stopped)
		}()
	}
	if err := server.Serve(listener); err != nil {
		panic(err)
	}
	<-stopped
}

// Waits until the file is there.
func appears(file string) {
	for {
		if _, err := os.Stat(file); err == nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func outgoing(w wish) context.Context {
	md := metadata.MD{}
	if spec, ok := w["m"]; ok {
		keys(md, spec, "x-key")
	}
	random := make([]byte, 40)
	rand.Read(random)
	if _, ok := w["b"]; ok {
		md.Set("x-data-bin", string(random))
	}
	if _, ok := w["r"]; ok {
		md.Set("x-request-id", fmt.Sprintf("%x", random[:16]))
	}
	return metadata.NewOutgoingContext(context.Background(), md)
}

func call(connection *grpc.ClientConn, path, kind, text string, w wish) (codes.Code, int) {
	body := []byte(text)
	if size := w.number("z", -1); size >= 0 {
		body = []byte(text + "\n" + strings.Repeat("y", size))
	}
	ctx, cancel := context.WithCancel(outgoing(w))
	defer cancel()
	if _, ok := w["t"]; ok {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, time.Duration(w.number("t", 0))*time.Millisecond)
		defer stop()
	}
	if _, ok := w["c"]; ok {
		time.AfterFunc(time.Duration(w.number("c", 0))*time.Millisecond, cancel)
	}
	if kind == "unary" {
		var reply []byte
		err := connection.Invoke(ctx, path, &body, &reply)
		if err != nil {
			return status.Code(err), 0
		}
		return codes.OK, 1
	}
	shape := &grpc.StreamDesc{ServerStreams: kind != "client", ClientStreams: kind != "server"}
	stream, err := connection.NewStream(ctx, shape, path)
	if err != nil {
		return status.Code(err), 0
	}
	for n := 0; n < w.number("n", 1); n++ {
		if n > 0 {
			w.pause("i")
		}
		if stream.SendMsg(&body) != nil {
			break
		}
	}
	stream.CloseSend()
	received := 0
	for {
		var reply []byte
		err := stream.RecvMsg(&reply)
		if err == io.EOF {
			return codes.OK, received
		}
		if err != nil {
			return status.Code(err), received
		}
		received++
		if kind == "client" {
			return codes.OK, received
		}
	}
}

func drive(given wish) {
	text, err := os.ReadFile(given["calls"])
	if err != nil {
		panic(err)
	}
	lines := strings.Split(string(text), "\n")
	log, err := os.Create(given["log"])
	if err != nil {
		panic(err)
	}
	var lock sync.Mutex
	connections := given.number("connections", 1)
	reached := 0
	var all sync.WaitGroup
	for id := 0; id < connections; id++ {
		all.Add(1)
		go func() {
			defer all.Done()
			transport := insecure.NewCredentials()
			if file, ok := given["certificate"]; ok {
				if transport, err = credentials.NewClientTLSFromFile(file, ""); err != nil {
					panic(err)
				}
			}
			connection, err := grpc.NewClient(given["to"], grpc.WithTransportCredentials(transport),
				grpc.WithDefaultCallOptions(grpc.ForceCodec(plain{}), grpc.MaxCallRecvMsgSize(1<<30)))
			if err != nil {
				panic(err)
			}
			defer connection.Close()
			work := make(chan int)
			var open sync.WaitGroup
			for n := 0; n < given.number("concurrency", 1); n++ {
				go func() {
					for index := range work {
						parts := strings.Split(lines[index], "\t")
						began := time.Now().UnixNano()
						code, received := call(connection, parts[0], parts[1], parts[2], fields(parts[3]))
						ended := time.Now().UnixNano()
						lock.Lock()
						fmt.Fprintf(log, "%d\t%d\t%s\t%d\t%d\t%d\t%d\n", id, index, parts[0], began, ended, code, received)
						lock.Unlock()
						open.Done()
					}
				}()
			}
			for index, line := range lines {
				parts := strings.Split(line, "\t")
				if parts[0] == "wait" {
					open.Wait()
					lock.Lock()
					reached++
					if reached%connections == 0 {
						os.WriteFile(parts[1]+".reached", nil, 0o644)
					}
					lock.Unlock()
					appears(parts[1])
				} else if len(parts) == 4 {
					open.Add(1)
					work <- index
				}
			}
			open.Wait()
		}()
	}
	all.Wait()
	log.Close()
}

func main() {
	given := fields(strings.Join(os.Args[2:], " "))
	if os.Args[1] == "server" {
		serve(given)
	} else {
		drive(given)
	}
}
