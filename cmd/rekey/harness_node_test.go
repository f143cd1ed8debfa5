package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The folders of programs that run in Node.js, with the packages that each needs.
const (
	nodeFolder    = "testdata/node"
	openAPIFolder = "testdata/openapi"
)

// node is a program in JavaScript that prints lines of JSON.
type node struct {
	*child
	input io.Writer
}

func startNode(t testing.TB, script string, env ...string) *node {
	t.Helper()
	cmd := exec.Command("node", script)
	cmd.Dir = nodeFolder
	cmd.Env = append(os.Environ(), env...)
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return &node{startChild(t, cmd), input}
}

// say writes a line to its standard input.
func (n *node) say(t testing.TB, line string) {
	t.Helper()
	if _, err := io.WriteString(n.input, line+"\n"); err != nil {
		t.Fatal(err)
	}
}

// said reads the lines that it has printed so far, those of which keep says so.
func said[T any](t testing.TB, n *node, keep func(T) bool) []T {
	t.Helper()
	var all []T
	text := []byte(n.out.String())
	for line := range bytes.Lines(text[:bytes.LastIndexByte(text, '\n')+1]) {
		var value T
		if err := json.Unmarshal(line, &value); err != nil {
			t.Fatalf("node printed %q: %v", line, err)
		}
		if keep(value) {
			all = append(all, value)
		}
	}
	return all
}

// awaitSaid waits until it has printed at least so many lines of which keep says so.
func awaitSaid[T any](t testing.TB, n *node, what string, count int, keep func(T) bool) []T {
	t.Helper()
	var all []T
	eventually(t, what, func() bool {
		if n.hasExited() {
			t.Fatalf("node ended: %s", strings.TrimSpace(n.errs.tail()))
		}
		all = said(t, n, keep)
		return len(all) >= count
	})
	return all
}
