// The one program in the test node's own image: what a pod needs to show that containers, volumes, DNS, Services and
// logs work, in a static binary, because a node without a registry has nothing else to run. As `pause` it is also the
// sandbox image of every pod.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const usage = `usage: probe pause | say TEXT | write PATH TEXT | wait PATH | print PATH | serve ADDRESS TEXT | get URL | resolve NAME
Several commands are separated by the argument "then".`

func main() {
	step := []string{}
	for _, word := range append(os.Args[1:], "then") {
		if word != "then" {
			step = append(step, word)
			continue
		}
		if err := run(step); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		step = nil
	}
}

func run(step []string) error {
	name, rest := "", []string{"", "", ""}
	if len(step) > 0 {
		name = step[0]
		copy(rest, step[1:])
	}
	switch name {
	case "pause":
		return pause()
	case "say":
		fmt.Println(rest[0])
		return nil
	case "write":
		return os.WriteFile(rest[0], []byte(rest[1]), 0o644)
	case "wait":
		return retry(func() error { _, err := os.Stat(rest[0]); return err })
	case "print":
		text, err := os.ReadFile(rest[0])
		fmt.Println(string(text))
		return err
	case "serve":
		return serve(rest[0], rest[1])
	case "get":
		return retry(func() error { return get(rest[0]) })
	case "resolve":
		return retry(func() error { return resolve(rest[0]) })
	}
	return fmt.Errorf("%s", usage)
}

// pause is PID 1 of a pod's sandbox: it holds the namespaces and reaps what is left behind.
func pause() error {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGINT, syscall.SIGTERM)
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	for {
		select {
		case <-ended:
			return nil
		case <-children:
			for {
				if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
					break
				}
			}
		}
	}
}

func serve(address, text string) error {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGINT, syscall.SIGTERM)
	go func() { <-ended; os.Exit(0) }()
	return http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, text)
	}))
}

func get(url string) error {
	client := http.Client{Timeout: 3 * time.Second}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	fmt.Printf("%d %s\n", answer.StatusCode, strings.TrimSpace(string(body)))
	return err
}

func resolve(name string) error {
	limit, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	found, err := net.DefaultResolver.LookupHost(limit, name)
	if err == nil {
		fmt.Println(strings.Join(found, " "))
	}
	return err
}

// retry tries for 20 seconds: rules of a new Service and a new pod's network settle within that or not at all.
func retry(try func() error) error {
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		err = try()
		// A server that answered with a certificate we cannot check is there: waiting changes nothing.
		var refused *tls.CertificateVerificationError
		if err == nil || errors.As(err, &refused) {
			return err
		}
	}
	return err
}
