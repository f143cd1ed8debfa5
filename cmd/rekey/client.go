package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// client talks to a running rekey for the client commands.
type client struct {
	url, key string
	http     *http.Client
}

// newClient reads where rekey is and which key to use.
func newClient() (*client, error) {
	c := &client{url: os.Getenv("REKEY_URL"), key: os.Getenv("REKEY_KEY"), http: &http.Client{}}
	if c.url == "" {
		c.url = "http://127.0.0.1:8080"
	}
	c.url = strings.TrimSuffix(c.url, "/")
	if c.key == "" {
		return nil, errors.New("REKEY_KEY is not set; it is the key to call the API with, such as the root key")
	}
	return c, nil
}

const clientTimeout = 30 * time.Second

// call sends a request and returns the answer's body; a problem document becomes the error.
func (c *client) call(ctx context.Context, method, path string, body any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	response, err := c.send(ctx, method, path, body, "application/json")
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(response.Body, 16<<20))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if response.StatusCode >= http.StatusBadRequest {
		return nil, problemError(response.StatusCode, raw)
	}
	return raw, nil
}

func (c *client) send(ctx context.Context, method, path string, body any, accept string) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		reader = bytes.NewReader(raw)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.url+path, reader)
	if err != nil {
		return nil, fmt.Errorf("build the request: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+c.key)
	request.Header.Set("Accept", accept)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w (REKEY_URL names another address)", c.url, err)
	}
	return response, nil
}

// problemError says what a problem document says.
func problemError(status int, raw []byte) error {
	var p struct {
		Code   string `json:"code"`
		Detail string `json:"detail"`
		Errors []struct{ Field, Message, Remedy string }
	}
	if json.Unmarshal(raw, &p) != nil || p.Code == "" {
		return fmt.Errorf("the server answered %d", status)
	}
	text := fmt.Sprintf("%s: %s", p.Code, p.Detail)
	for _, f := range p.Errors {
		if f.Remedy != "" {
			text += fmt.Sprintf("\n  %s: %s", f.Field, f.Remedy)
		}
	}
	return errors.New(text)
}

// print shows an answer for people.
func printJSON(out io.Writer, raw []byte) error {
	if len(raw) == 0 {
		return nil
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	_, err := fmt.Fprintln(out, strings.TrimSpace(b.String()))
	return err
}
