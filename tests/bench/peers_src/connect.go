// A peer for tests/bench: what goproxy does with CONNECT (hijack, dial, two io.Copy, which splice) and with plain HTTP (a shared
// http.Transport), with an allowlist of one host, on Go's standard library alone: goproxy itself needs a module proxy.
package main

import (
	"io"
	"log"
	"net"
	"net/http"
	"os"
)

func carry(to, from *net.TCPConn, done chan<- struct{}) {
	io.Copy(to, from)
	to.CloseWrite()
	done <- struct{}{}
}

func main() {
	allowed, transport := os.Args[2], &http.Transport{MaxIdleConnsPerHost: 64}
	handler := func(w http.ResponseWriter, r *http.Request) {
		if name, _, err := net.SplitHostPort(r.Host); err != nil || name != allowed {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		if r.Method == http.MethodConnect {
			origin, err := net.Dial("tcp", r.Host)
			if err != nil {
				http.Error(w, "no", http.StatusBadGateway)
				return
			}
			client, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				log.Fatal(err)
			}
			io.WriteString(client, "HTTP/1.0 200 OK\r\n\r\n")
			done := make(chan struct{})
			go carry(origin.(*net.TCPConn), client.(*net.TCPConn), done)
			go carry(client.(*net.TCPConn), origin.(*net.TCPConn), done)
			<-done
			<-done
			client.Close()
			origin.Close()
			return
		}
		r.RequestURI = ""
		answer, err := transport.RoundTrip(r)
		if err != nil {
			http.Error(w, "no", http.StatusBadGateway)
			return
		}
		defer answer.Body.Close()
		for name, values := range answer.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.StatusCode)
		io.Copy(w, answer.Body)
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], http.HandlerFunc(handler)))
}
