package api_test

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/projections"
)

var (
	stormSeed  = flag.Uint64("storm.seed", 0, "the requests of a storm; 0: new ones")
	stormShots = flag.Int("storm.shots", 10_000, "how many requests a storm has")
)

// TestG5_Storm sends thousands of random requests, most of them bad, to all surfaces: requests that the documents allow,
// with a few things spoilt. Each is answered in the form of its surface, with what the document says, and never with a
// fault of ours. No secret is repeated to whoever sent it in a wrong place, or logged. After it the log and the tables
// agree, and everything works.
func TestG5_Storm(t *testing.T) {
	t.Parallel()
	b := setup(t, options{configure: knows(t, newScanner(t, elliptic.P256())), commands: reachLoopback(t)})
	seed := *stormSeed
	for seed == 0 {
		seed = rand.Uint64()
	}
	s := newStorm(b)
	const workers = 4
	var all sync.WaitGroup
	tallies := make([]map[int]int, workers)
	for worker := range workers {
		all.Go(func() {
			g := &gunner{storm: s, Rand: rand.New(rand.NewPCG(seed, uint64(worker)))}
			tallies[worker] = map[int]int{}
			for n := range *stormShots / workers {
				status, err := g.fire()
				if err != nil {
					t.Errorf("shot %d of worker %d with -storm.seed=%d: %v", n, worker, seed, err)
					return
				}
				tallies[worker][status]++
			}
		})
	}
	all.Wait()
	s.judge(t, tallies)
}

// judge says whether the storm was one, and what is left after it.
func (s *storm) judge(t *testing.T, tallies []map[int]int) {
	total := map[int]int{}
	for _, tally := range tallies {
		for status, n := range tally {
			total[status] += n
		}
	}
	t.Logf("answers: %v", total)
	good := total[200] + total[201] + total[204]
	for _, status := range []int{400, 401, 403, 404, 405, 409, 412, 413, 415, 422} {
		if total[status] == 0 && !t.Failed() {
			t.Errorf("no request was answered with %d: %v", status, total)
		}
	}
	if bad := *stormShots - good; !t.Failed() && (good < *stormShots/50 || bad < *stormShots/2) {
		t.Errorf("%d requests were good: the storm does not reach far, or is none", good)
	}
	for _, secret := range s.secrets {
		if logged := s.b.logs.String(); strings.Contains(logged, secret) {
			t.Fatalf("the log has a secret:\n%.2000s", linesWith(logged, secret))
		}
	}
	if logged := linesWith(s.b.logs.String(), `"level":"ERROR"`); logged != "" {
		t.Errorf("faults were logged:\n%.5000s", logged)
	}
	conn, err := pgx.Connect(t.Context(), s.b.options.db.URL)
	must(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	report, err := projections.Check(t.Context(), conn)
	must(t, err)
	if len(report.Differences) > 0 {
		t.Errorf("the log and the tables differ: %+v", report.Differences)
	}
	if _, err := life(s.b.root, s.b, 1); err != nil {
		t.Errorf("after the storm: %v", err)
	}
}

// storm is what the random requests are made of.
type storm struct {
	b       *bench
	ids     map[string][]string // by kind: own, foreign and unknown ones
	callers []string            // secrets to call with, good ones and others
	secrets []string            // of callers and keys; none may be repeated
	http    *http.Client
}

func newStorm(b *bench) *storm {
	mine, theirs := b.newOrganization("mine"), b.newOrganization("theirs")
	s := &storm{b: b, ids: map[string][]string{}, http: &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 8}, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	b.t.Cleanup(s.http.CloseIdleConnections)
	add := func(kind string, ids ...string) { s.ids[kind] = append(s.ids[kind], ids...) }
	for n := range 24 { // to be edited, rotated and revoked
		k := mine.owner.newKeyIn(mine.project, fields{"scopes": []string{"keys:*", "projects:read", "read", "write"}})
		if n%8 == 0 {
			mine.owner.call("DELETE", "/v1/api-keys/"+k.text("id"), nil).wants(204)
		}
		add("key", k.text("id"))
		add("lin", k.text("lineage_id"))
		add("number", number(k.text("id")))
		add("secret", k.text("key"))
	}
	n := &neighbour{b: b}
	for range 4 {
		rotated := mine.owner.call("POST", "/v1/api-keys/"+mine.owner.newKeyIn(mine.project, nil).text("id")+"/rotate", "{}").wants(200)
		url := nobodyThere + unknown("hook")
		mine.owner.newKeyIn(mine.project, fields{"rotation_webhook_url": url})
		add("rot", rotated.text("rotation_id"))
		add("ep", n.endpoint(url))
		add("dlv", n.delivery(mine.id, mine.project, rotated.text("rotation_id")))
	}
	for _, o := range []organization{mine, theirs} {
		add("proj", string(o.project))
		add("env", string(o.environment))
		add("org", string(o.id))
	}
	add("proj", mine.owner.call("POST", "/v1/projects", fields{"name": "to be deleted"}).wants(201).text("id"))
	add("key", string(theirs.key))
	for _, kind := range []string{"key", "lin", "proj", "env", "org", "rot", "ep", "dlv"} {
		add(kind, unknown(kind), kind+"_\x00", kind+"_"+strings.Repeat("z", 26))
	}
	add("number", "1", number(unknown("key")))
	add("once", "once", `"twice"`, "8e03978e-40d5-43dd-bc93-6894a57f9324")
	add("token", "x", "AAAA")
	add("expiry", "MSBrZXk")
	revoked := mine.owner.newKeyIn(mine.project, nil)
	mine.owner.call("DELETE", "/v1/api-keys/"+revoked.text("id"), nil).wants(204)
	s.callers = []string{
		b.root.secret, mine.owner.secret, mine.owner.secret, mine.owner.secret, revoked.text("key"), freshSecret(b.root).(string),
		mine.owner.newKeyIn(mine.project, fields{"scopes": []string{"keys:read", "read"}}).text("key"),
		mine.owner.newKeyIn(mine.project, fields{"resources": fields{"project": []any{mine.project}}}).text("key"),
	}
	s.secrets = append(slices.Clone(s.ids["secret"]), s.callers...)
	return s
}

// gunner makes random requests.
type gunner struct {
	*storm
	*rand.Rand
}

// bullet is a request as it goes over the wire.
type bullet struct {
	method, path, query string // the last two as they are written
	header              http.Header
	body                []byte
	chunked             bool
	form                form
}

// fire sends one random request and says what is wrong with its answer.
func (g *gunner) fire() (int, error) {
	f := forms()[g.IntN(len(forms()))]
	r := g.load(f)
	for range g.IntN(4) {
		pick(g.Rand, spoilers)(g, r)
	}
	request, err := g.aim(r)
	if err != nil { // not even HTTP: the server's library would answer
		return g.fire()
	}
	response, err := g.http.Do(request)
	if err != nil {
		return 0, fmt.Errorf("%s: no answer: %w", r, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.Header.Get("Content-Type") == "text/event-stream" {
		return response.StatusCode, nil // it would not end
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, fmt.Errorf("%s: the answer broke off: %w", r, err)
	}
	if err := g.check(r, request, response, body); err != nil {
		return 0, fmt.Errorf("%s\nwas answered %d %v\n%.1000s\n%w", r, response.StatusCode, response.Header, body, err)
	}
	return response.StatusCode, nil
}

// check holds an answer against the document of its surface, and looks for secrets in it.
func (g *gunner) check(r *bullet, request *http.Request, response *http.Response, body []byte) error {
	status := response.StatusCode
	if status >= 500 || status >= 300 && status < 400 {
		return fmt.Errorf("the status is %d", status)
	}
	if status >= 400 {
		text := string(body) + fmt.Sprint(response.Header)
		for _, secret := range g.secrets {
			if strings.Contains(text, secret) {
				return fmt.Errorf("the answer repeats the secret %s", secret)
			}
		}
	}
	seen := request.Clone(context.Background())
	at, err := url.ParseRequestURI(r.target()) // as the server reads it
	if err != nil {
		return err
	}
	seen.URL = at
	seen.Header.Del("Last-Event-Id") // which counts for streams only
	seen.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.body)), nil }
	return about(at.Path).judge(seen, response, body)
}

func (b *bullet) target() string {
	if b.query == "" {
		return b.path
	}
	return b.path + "?" + b.query
}

// String is the request as a person reads it.
func (b *bullet) String() string {
	return fmt.Sprintf("%s %.500q\n%.1000q\n%.2000q", b.method, b.target(), fmt.Sprint(b.header), b.body)
}

// aim makes a request of a bullet. It fails for what Go's own client or server would refuse.
func (g *gunner) aim(b *bullet) (*http.Request, error) {
	if _, err := url.ParseRequestURI(b.target()); err != nil || strings.HasPrefix(b.path, "//") {
		return nil, fmt.Errorf("no target: %w", err)
	}
	if strings.Contains(fmt.Sprint(b.header), "\x00") {
		return nil, errors.New("no header")
	}
	var body io.Reader
	if b.body != nil {
		body = bytes.NewReader(b.body)
		if b.chunked {
			body = io.MultiReader(body)
		}
	}
	request, err := http.NewRequestWithContext(context.Background(), b.method, g.b.http.URL, body)
	if err != nil {
		return nil, err
	}
	request.URL.Opaque, request.URL.RawQuery = b.path, b.query
	request.Header = b.header
	return request, nil
}

// load makes a request that the document allows.
func (g *gunner) load(f form) *bullet {
	s := f.request(func(p place) any {
		if !p.required && g.IntN(10) > 2 {
			return nil
		}
		return g.value(f, p)
	})
	b := &bullet{method: s.method, path: s.path, query: s.query.Encode(), header: http.Header{}, form: f}
	if !f.o.open() {
		b.header.Set("Authorization", "Bearer "+pick(g.Rand, g.callers))
	}
	for i := 0; i < len(s.headers); i += 2 {
		b.header.Set(s.headers[i], s.headers[i+1])
	}
	if form, ok := s.body.(string); ok {
		b.body = []byte(form)
	} else if s.body != nil {
		b.body = written(s.body)
		b.header.Set("Content-Type", "application/json")
	}
	return b
}

// value is one that the place takes, as far as its schema and its name tell.
func (g *gunner) value(f form, p place) any {
	if kinds := kindsIn(f, p); kinds != nil {
		kind := pick(g.Rand, kinds)
		if g.ids[kind] == nil {
			return p.holding(unknown(kind))
		}
		return p.holding(pick(g.Rand, g.ids[kind]))
	}
	switch p.name {
	case "name":
		return freshName(nil)
	case "key", "keys", "token":
		return pick(g.Rand, g.ids["secret"])
	case "disabled_surfaces": // the storm must go on
		return []any{}
	case "expires_at", "expiresAt":
		return "2999-01-01T00:00:00Z"
	case "url", "rotation_webhook_url":
		return nobodyThere + "x"
	case "Rekey-Authorization":
		return "Bearer " + pick(g.Rand, g.callers)
	case "header", "ip_header":
		return pick(g.Rand, []string{"X-Api-Key", "X-Real-Ip"})
	case "resource", "Rekey-Resource":
		return "app:com.demo.app"
	case "If-Match":
		return fmt.Sprintf(`"%d"`, g.IntN(4))
	}
	if enum, _ := p.schema["enum"].([]any); enum != nil {
		return pick(g.Rand, enum)
	}
	if examples, _ := p.schema["examples"].([]any); examples != nil {
		return pick(g.Rand, examples)
	}
	switch types(p.schema)[0] {
	case "boolean":
		return g.IntN(2) == 0
	case "integer":
		return g.IntN(100)
	case "array":
		return []any{"read"}
	case "object":
		return fields{"a": fields{"b": 1}}
	}
	return "x"
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }
