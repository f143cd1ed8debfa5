package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
)

// canaries are secrets that must not be found where they do not belong, in any spelling.
type canaries struct {
	mu    sync.Mutex
	names map[string]string // secret -> what it is
}

func (c *canaries) add(what, secret string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.names == nil {
		c.names = map[string]string{}
	}
	c.names[secret] = what
	return secret
}

// search is a set of byte sequences, found in one pass however many they are.
type search struct {
	begins  [1 << 16]bool // by the first two bytes
	needles map[uint16][]needle
}

type needle struct{ text, what string }

func (c *canaries) search() *search {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &search{needles: map[uint16][]needle{}}
	for secret, what := range c.names {
		for form, text := range spellings(secret) {
			s.add(text, what+" ("+form+")")
		}
	}
	return s
}

func (s *search) add(text, what string) {
	first := uint16(text[0])<<8 | uint16(text[1])
	s.begins[first] = true
	s.needles[first] = append(s.needles[first], needle{text, what})
}

// in lists what is found in some text.
func (s *search) in(text string) []string {
	var found []string
	for i := range max(0, len(text)-1) {
		first := uint16(text[i])<<8 | uint16(text[i+1])
		if !s.begins[first] {
			continue
		}
		for _, n := range s.needles[first] {
			if strings.HasPrefix(text[i:], n.text) {
				found = append(found, fmt.Sprintf("%s, after %q", n.what, text[max(0, i-60):i]))
			}
		}
	}
	return found
}

// spellings are the forms in which a secret may be written down.
func spellings(secret string) map[string]string {
	forms := map[string]string{"raw": secret}
	add := func(form, text string) {
		if text != secret {
			forms[form] = text
		}
	}
	quoted, _ := json.Marshal(secret) // a string can always be encoded
	add("JSON", strings.Trim(string(quoted), `"`))
	add("JSON with escaped slashes", strings.ReplaceAll(secret, "/", `\/`))
	add("URL", url.QueryEscape(secret))
	addBytes(add, "", []byte(secret))
	for _, prefix := range []string{"whsec_", "whsk_"} {
		encoded, ok := strings.CutPrefix(secret, prefix)
		if !ok {
			continue
		}
		add("without prefix", encoded)
		if key, err := base64.StdEncoding.DecodeString(encoded); err == nil {
			if prefix == "whsk_" {
				key = key[:32] // the rest is the public half
			}
			add("signing key", string(key))
			addBytes(add, "signing key ", key)
		}
		return forms
	}
	// The larger part of it would do as well. Prefix and last four may be shown.
	add("middle", secret[len(secret)-34:len(secret)-6])
	return forms
}

// addBytes adds hexadecimal and base64, the latter at each of the three places that it can have in a longer text.
func addBytes(add func(form, text string), what string, raw []byte) {
	add(what+"hex", hex.EncodeToString(raw))
	add(what+"HEX", strings.ToUpper(hex.EncodeToString(raw)))
	for shift, cut := range []int{0, 2, 3} {
		shifted := append(make([]byte, shift), raw...)
		for name, encoding := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
			text := encoding.EncodeToString(shifted)
			add(fmt.Sprintf("%s%s %d", what, name, shift), text[cut:len(text)-2])
		}
	}
}
