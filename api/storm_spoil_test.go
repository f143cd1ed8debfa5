package api_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// spoilers each spoil one thing about a request.
var spoilers = []func(*gunner, *bullet){
	spoilField, spoilField, spoilField, spoilField, spoilBytes, spoilBytes, spoilBody, spoilType, spoilPath, spoilPath, spoilQuery, spoilQuery,
	spoilMethod, spoilHeader, spoilHeader, spoilCredential,
}

// hostile are JSON values that are not what was expected.
var hostile = []string{
	`null`, `true`, `-1`, `0`, `-0`, `1.5`, `1e3`, `1E+400`, `9223372036854775807`, `9223372036854775808`, `-9223372036854775809`, `1e-400`,
	strings.Repeat("9", 2000), `""`, `" "`, `"x"`, `"\u0000"`, `"a\u0000b"`, `"\ud800"`, "\"\xff\xfe\"", `"\u202e"`, `"é𝛑"`, `"*"`, `"a:*"`, `"keys:write"`,
	`"-1"`, `"1e3"`, `"true"`, `"2020-01-01T00:00:00Z"`, `"9999-12-31T23:59:60Z"`, `"2030-02-30"`, `"http://127.0.0.1/"`, `"https://[::1%25lo]/"`,
	`"https://hooks.example.com/\u0000"`, `"<script>"`, `"' OR 1=1 --"`, `"%s%n"`, `"` + strings.Repeat("n", 10_000) + `"`,
	`[]`, `{}`, `[null]`, `[[]]`, `{"":null}`, `{"a":1,"a":2}`, `["*"]`, `["x","x"]`, `{"project":[]}`, `{"project":null}`, `{"project":["\u0000"]}`,
	strings.Repeat("[", 12) + strings.Repeat("]", 12), strings.Repeat("[", 40) + strings.Repeat("]", 40),
	strings.Repeat(`{"a":`, 9) + "1" + strings.Repeat("}", 9), "[" + strings.Repeat("1,", 5000) + "1]",
}

// raw is JSON, or not, that is written as it is.
type raw string

// written is a value in JSON, with what is raw in it.
func written(value any) []byte {
	var out bytes.Buffer
	write(&out, value)
	return out.Bytes()
}

func write(out *bytes.Buffer, value any) {
	switch value := value.(type) {
	case raw:
		out.WriteString(string(value))
	case map[string]any:
		out.WriteByte('{')
		for i, name := range slices.Sorted(maps.Keys(value)) {
			if i > 0 {
				out.WriteByte(',')
			}
			write(out, name)
			out.WriteByte(':')
			write(out, value[name])
		}
		out.WriteByte('}')
	case []any:
		out.WriteByte('[')
		for i, item := range value {
			if i > 0 {
				out.WriteByte(',')
			}
			write(out, item)
		}
		out.WriteByte(']')
	default:
		text, err := json.Marshal(value)
		if err != nil {
			panic(err)
		}
		out.Write(text)
	}
}

// anything is a hostile value, or one that is right somewhere else.
func (g *gunner) anything() raw {
	switch g.IntN(6) {
	case 0:
		return raw(written(pick(g.Rand, g.secrets)))
	case 1:
		kind := pick(g.Rand, []string{"key", "lin", "proj", "env", "org", "number"})
		return raw(written(pick(g.Rand, g.ids[kind])))
	}
	return raw(pick(g.Rand, hostile))
}

// spoilField puts another value in the place of one in the body, takes one out, or adds a field.
func spoilField(g *gunner, b *bullet) {
	var whole any
	if json.Unmarshal(b.body, &whole) != nil {
		return
	}
	whole, done := g.spoilIn(whole, 1+g.IntN(4))
	if object, ok := whole.(map[string]any); ok && !done {
		object[pick(g.Rand, []string{"nmae", "Name", "id", "", "name", "status", "scopes", "key", "a\x00", "__proto__"})] = g.anything()
	}
	b.body = written(whole)
	if g.IntN(8) == 0 && len(b.body) > 2 && b.body[0] == '{' { // a name twice
		b.body = append([]byte(`{"name":`+string(g.anything())+`,`), b.body[1:]...)
	}
}

// spoilIn spoils a value a few levels down, and reports whether it could.
func (g *gunner) spoilIn(value any, depth int) (any, bool) {
	if depth == 0 {
		return g.anything(), true
	}
	switch value := value.(type) {
	case map[string]any:
		if len(value) == 0 {
			return value, false
		}
		name := pick(g.Rand, slices.Sorted(maps.Keys(value)))
		if g.IntN(8) == 0 {
			delete(value, name)
			return value, true
		}
		value[name], _ = g.spoilIn(value[name], depth-1)
		return value, true
	case []any:
		if len(value) == 0 {
			return []any{g.anything()}, true
		}
		at := g.IntN(len(value))
		value[at], _ = g.spoilIn(value[at], depth-1)
		return value, true
	}
	return g.anything(), true
}

// spoilBytes damages the text of the body.
func spoilBytes(g *gunner, b *bullet) {
	if len(b.body) == 0 {
		return
	}
	b.body = slices.Clone(b.body)
	at := g.IntN(len(b.body))
	switch g.IntN(6) {
	case 0:
		b.body = b.body[:at]
	case 1:
		b.body[at] ^= byte(1 << g.IntN(8))
	case 2:
		b.body = slices.Insert(b.body, at, []byte(pick(g.Rand, []string{"\x00", "\xff", "\\", `"`, "{", "}", ",", "\ufeff", "\xed\xa0\x80", "e999"}))...)
	case 3:
		b.body = slices.Delete(b.body, at, min(len(b.body), at+1+g.IntN(5)))
	case 4:
		b.body = append(b.body, b.body[at:]...)
	case 5:
		b.body = append([]byte(pick(g.Rand, []string{"\ufeff", " ", "\x00", "null"})), b.body...)
	}
}

// spoilBody puts something else in the place of the body, or a body where there is none.
func spoilBody(g *gunner, b *bullet) {
	b.chunked = g.IntN(2) == 0
	switch g.IntN(8) {
	case 0:
		b.body = nil
	case 1:
		b.body = []byte{}
	case 2:
		b.body = []byte(pick(g.Rand, g.secrets))
	case 3:
		b.body = bytes.Repeat([]byte(" "), 70_000)
	case 4:
		b.body = []byte(strings.Repeat("[", 30_000))
	case 5:
		b.body = []byte("name=x&mode=read")
	case 6:
		b.body = bytes.Repeat([]byte{0x1f, 0x8b, 0}, 10)
	default:
		b.body = []byte(g.anything())
	}
}

// spoilType says something else about the body.
func spoilType(g *gunner, b *bullet) {
	b.header.Set("Content-Type", pick(g.Rand, []string{
		"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json; charset=utf-16", "application/xml",
		"APPLICATION/JSON", "application/json,text/plain", "; +", "application/problem+json", "application/vnd.api+json", "*/*", "application/cbor",
		"json", "application/json; charset", pick(g.Rand, g.secrets), strings.Repeat("x/", 500),
	}))
	if g.IntN(3) == 0 {
		b.header.Set("Content-Encoding", pick(g.Rand, []string{"gzip", "br", "identity", "\xff"}))
	}
}

// odd are texts that paths and queries have trouble with, as they are written there.
func (g *gunner) odd() string {
	switch g.IntN(4) {
	case 0:
		return url.PathEscape(pick(g.Rand, g.secrets))
	case 1:
		return url.PathEscape(string(g.anything()))
	}
	return pick(g.Rand, []string{
		"", ".", "..", "%2e%2e", "%2F", "%2f..%2f", "%00", "%ff%fe", "%25", "%", "%zz", "%u0041", "+", "%20", "a;b=c", "a=b", "*", "{id}", "%7Bid%7D", "é",
		"%C3%A9", "%0d%0a", "healthz", "verify", "openapi.json", "keys", "projects", "-1", "0", "00", "1e3", "9223372036854775808", "18446744073709551616",
		strings.Repeat("9", 500), strings.Repeat("k", 8000), strings.ToUpper(pick(g.Rand, g.ids["key"])), "~", "'", "key_", "proj_%00",
	})
}

// spoilPath changes what the path names, or its spelling.
func spoilPath(g *gunner, b *bullet) {
	parts := strings.Split(b.path, "/")
	at := 1 + g.IntN(len(parts)-1)
	switch g.IntN(5) {
	case 0, 1:
		parts[at] = g.odd()
	case 2:
		parts = slices.Insert(parts, at, g.odd())
	case 3:
		parts = slices.Delete(parts, at, at+1)
	case 4:
		parts[at] = strings.ToUpper(parts[at])
	}
	if b.path = strings.Join(parts, "/"); !strings.HasPrefix(b.path, "/") {
		b.path = "/" + b.path
	}
}

// parameter names one that the route has, or else one that it may not have.
func (g *gunner) parameter(b *bullet, in string, others []string) string {
	var own []string
	for _, p := range b.form.o.Parameters {
		if p.In == in {
			own = append(own, p.Name)
		}
	}
	if len(own) > 0 && g.IntN(2) == 0 {
		return pick(g.Rand, own)
	}
	return pick(g.Rand, others)
}

// spoilQuery adds to the query, or takes all of it away.
func spoilQuery(g *gunner, b *bullet) {
	name := g.parameter(b, "query", []string{
		"limit", "cursor", "project_id", "environment_id", "lineage_id", "include_revoked", "within_days", "after", "reason", "name", "mode",
		"limited_to_apps", "limited_to_orgs", "nothing", "", "%00", "limit[]",
	})
	switch g.IntN(5) {
	case 0:
		b.query = ""
	case 1:
		b.query = g.odd()
	default:
		b.query = strings.TrimPrefix(b.query+"&"+name+"="+g.odd(), "&")
	}
}

func spoilMethod(g *gunner, b *bullet) {
	b.method = pick(g.Rand, []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW", "get", "PROPFIND", "M-SEARCH"})
}

// spoilHeader sends a header that means something to us with a text that means nothing.
func spoilHeader(g *gunner, b *bullet) {
	name := g.parameter(b, "header", []string{
		"Idempotency-Key", "If-Match", "X-Limited-Key-Id", "Last-Event-Id", "X-Request-Id", "Accept", "X-Forwarded-For", "Github-Public-Key-Identifier",
		"Github-Public-Key-Signature", "If-None-Match", "Range", "X-Http-Method-Override", "Cookie", "Origin", "Accept-Encoding",
	})
	text := pick(g.Rand, []string{
		"", " ", `""`, `"`, `"1"`, `W/"1"`, `"1", "2"`, `"01"`, `"-1"`, `"9223372036854775808"`, "*", "1", "0", "-1", "x", "é", "\xff", "a\tb", "a b", "null",
		strings.Repeat("x", 255), strings.Repeat("x", 256), strings.Repeat("x", 9000), "text/event-stream", "application/xml", "gzip", "bytes=0-1", "127.0.0.1, ::1, x",
		pick(g.Rand, g.secrets), pick(g.Rand, g.ids["key"]), pick(g.Rand, g.ids["number"]),
	})
	if g.IntN(4) > 0 {
		b.header.Del(name)
	}
	b.header.Add(name, text)
}

// spoilCredential shows the key in another way, or another key.
func spoilCredential(g *gunner, b *bullet) {
	secret := pick(g.Rand, g.callers)
	b.header.Del("Authorization")
	switch g.IntN(9) {
	case 0:
	case 1:
		b.header.Set("Authorization", secret)
	case 2:
		b.header.Set("Authorization", "Basic "+secret)
	case 3:
		b.header.Set("Authorization", "bearer   "+secret+" ")
	case 4:
		b.header.Add("Authorization", "Bearer "+secret)
		b.header.Add("Authorization", "Bearer "+pick(g.Rand, g.callers))
	case 5:
		b.header.Set("X-Api-Key", secret)
	case 6:
		b.header.Set("Capgkey", secret)
		b.header.Set("X-Api-Key", pick(g.Rand, g.callers))
	case 7:
		b.header.Set("Authorization", "Bearer "+pick(g.Rand, []string{"", "x", "\xff", strings.Repeat("k", 9000), secret[:len(secret)-1], secret + secret}))
	case 8:
		b.header.Set("Authorization", "Bearer "+secret+"\t")
	}
}
