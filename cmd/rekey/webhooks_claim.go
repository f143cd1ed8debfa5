package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const claimTimeout = 10 * time.Second

// fetchClaim fetches a secret from the address that a signed message named, once: the address is used up by it. Errors
// hold neither the address nor the answer.
func fetchClaim(ctx context.Context, claimURL, keyFile string) (string, error) {
	if err := checkClaimURL(claimURL); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, claimURL, nil)
	if err != nil {
		return "", errors.New("the claim URL cannot be used")
	}
	request.Header.Set("Accept", "application/json")
	if keyFile != "" {
		key, err := os.ReadFile(keyFile)
		if err != nil {
			return "", fmt.Errorf("read the key to fetch with: %w", err)
		}
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(key)))
	}
	// A redirect would carry the old key, and the answer the new one, to a place that nobody signed for.
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err // without the address
		}
		return "", fmt.Errorf("fetch the claim: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	return readClaim(response)
}

func readClaim(response *http.Response) (string, error) {
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusCreated {
		return "", fmt.Errorf("fetch the claim: the server answered %d", response.StatusCode)
	}
	var answer struct {
		Key string `json:"key"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, 64<<10)).Decode(&answer); err != nil || answer.Key == "" {
		return "", errors.New("fetch the claim: the answer holds no key")
	}
	return answer.Key, nil
}

// checkClaimURL wants https, except on this machine.
func checkClaimURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return errors.New("the claim URL cannot be used")
	}
	ip := net.ParseIP(u.Hostname())
	if u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return errors.New("the claim URL is not https")
	}
	return nil
}
