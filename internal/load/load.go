// Package load is a small HTTP/1.1 load generator for benchmarks. It exists because net/http's client costs about as much
// processor time as the server it measures, on the same cores: this one writes prepared bytes to kept connections and
// reads only what it needs of the answers. It speaks to servers that answer with a Content-Length, on loopback.
package load

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Worker drives one connection.
type Worker interface {
	// Next returns the bytes of the next request; nil ends this worker.
	Next() []byte
	// Answer is given what came back. The body is only valid during the call.
	Answer(status int, body []byte)
}

// Result is what a run measured.
type Result struct {
	Requests  int
	Failed    int // answered with another status than 2xx
	Elapsed   time.Duration
	latencies []time.Duration
}

// Rate is requests per second.
func (r Result) Rate() float64 { return float64(r.Requests) / r.Elapsed.Seconds() }

// Quantile returns the latency below which a share of the requests stayed.
func (r Result) Quantile(q float64) time.Duration {
	if len(r.latencies) == 0 {
		return 0
	}
	return r.latencies[min(len(r.latencies)-1, int(q*float64(len(r.latencies))))]
}

// Merge adds another run.
func (r Result) Merge(other Result) Result {
	merged := Result{
		Requests: r.Requests + other.Requests, Failed: r.Failed + other.Failed, Elapsed: r.Elapsed + other.Elapsed,
		latencies: slices.Concat(r.latencies, other.latencies),
	}
	slices.Sort(merged.latencies)
	return merged
}

// Run drives one connection per worker until the time is up or every worker has ended.
func Run(addr string, workers []Worker, limit time.Duration) (Result, error) {
	var (
		wait    sync.WaitGroup
		mu      sync.Mutex
		total   Result
		failure error
	)
	began := time.Now()
	for _, w := range workers {
		wait.Go(func() {
			result, err := drive(addr, w, began.Add(limit))
			mu.Lock()
			defer mu.Unlock()
			total.Requests += result.Requests
			total.Failed += result.Failed
			total.latencies = append(total.latencies, result.latencies...)
			failure = errors.Join(failure, err)
		})
	}
	wait.Wait()
	total.Elapsed = time.Since(began)
	slices.Sort(total.latencies)
	return total, failure
}

func drive(addr string, w Worker, until time.Time) (result Result, err error) {
	conn, err := net.DialTimeout("tcp", addr, 3*time.Second)
	if err != nil {
		return result, fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = conn.Close() }()
	reader := bufio.NewReaderSize(conn, 16<<10)
	var body []byte
	for {
		sent := time.Now()
		if !sent.Before(until) {
			return result, nil
		}
		request := w.Next()
		if request == nil {
			return result, nil
		}
		if err := conn.SetDeadline(sent.Add(30 * time.Second)); err != nil {
			return result, fmt.Errorf("set deadline: %w", err)
		}
		if _, err := conn.Write(request); err != nil {
			return result, fmt.Errorf("send: %w", err)
		}
		status, answered, err := readAnswer(reader, body)
		if err != nil {
			return result, fmt.Errorf("read answer: %w", err)
		}
		body = answered
		result.latencies = append(result.latencies, time.Since(sent))
		result.Requests++
		if status < 200 || status > 299 {
			result.Failed++
		}
		w.Answer(status, body)
	}
}

var contentLength = []byte("content-length:")

// readAnswer reads a status line, headers and a body of known length.
func readAnswer(r *bufio.Reader, buffer []byte) (status int, body []byte, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return 0, nil, err
	}
	if len(line) < 12 {
		return 0, nil, fmt.Errorf("status line %q is too short", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, nil, fmt.Errorf("status line %q has no status", line)
	}
	length := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return 0, nil, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if len(line) > len(contentLength) && bytes.EqualFold(line[:len(contentLength)], contentLength) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(contentLength):]))); err != nil {
				return 0, nil, fmt.Errorf("header %q has no length", line)
			}
		}
	}
	body = slices.Grow(buffer[:0], length)[:length]
	_, err = io.ReadFull(r, body)
	return status, body, err
}

// Request renders the bytes of one request.
func Request(method, path, host, token, body string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n", method, path, host, token)
	if body != "" {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n")
	b.WriteString(body)
	return b.Bytes()
}
