package api_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/migrations/dbtest"
	"github.com/rekeyhq/rekey/projections"
)

// once sends a request under an Idempotency-Key.
func (c *client) once(key, path string, body any) *answer {
	c.b.t.Helper()
	return c.call("POST", path, body, "Idempotency-Key", key)
}

// G10: every POST is answered once, and a retry gets that answer with its secret.
func TestG10EveryPostIsAnsweredOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	project := b.tenant.Key.ProjectID
	parent := b.newKey(nil)
	for name, post := range map[string]struct {
		path string
		body any
	}{
		"create":          {"/v1/api-keys", fields{"project_id": project, "name": "ci", "rotation_interval_days": 30, "rotation_webhook_url": "https://hooks.example.com/"}},
		"rotate":          {"/v1/api-keys/" + parent.text("id") + "/rotate", fields{}},
		"organization":    {"/v1/organizations", fields{"name": "acme"}},
		"project":         {"/v1/projects", fields{"name": "app"}},
		"environment":     {"/v1/environments", fields{"project_id": project, "name": "staging"}},
		"account key":     {"/v1/keys", fields{"name": "ci"}},
		"wrapped project": {"/api/v1/projects", fields{"name": "app"}},
	} {
		t.Run(name, func(t *testing.T) {
			first := b.root.once("key-of-"+strings.ReplaceAll(name, " ", "-"), post.path, post.body)
			if first.status/100 != 2 || first.header.Get("Idempotent-Replayed") != "" {
				t.Fatalf("got %d: %s", first.status, first.body)
			}
			head := b.head()
			again := b.root.once(`"key-of-`+strings.ReplaceAll(name, " ", "-")+`"`, post.path, post.body) // as RFC 8941 writes it
			if again.status != first.status || string(again.body) != string(first.body) || again.header.Get("ETag") != first.header.Get("ETag") ||
				again.header.Get("Content-Type") != first.header.Get("Content-Type") || again.header.Get("Idempotent-Replayed") != "true" {
				t.Errorf("the retry got %d %v %s\nafter %d %v %s", again.status, again.header, again.body, first.status, first.header, first.body)
			}
			if b.head() != head {
				t.Error("the retry wrote an event")
			}
		})
	}
}

// The successor's secret is handed out once, but its answer is not lost with the connection.
func TestG10ClaimOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)})
	key := b.newKey(fields{"rotation_interval_days": 1})
	b.clock.advance(49 * time.Hour)
	b.sweep()
	holder := b.as(key.text("key"))
	path := "/v1/api-keys/" + key.text("id") + "/successor"
	first := holder.once("claim", path, nil).wants(http.StatusOK)
	holder.call("POST", path, nil).refused(http.StatusNotFound, domain.CodeNoRotation)
	if again := holder.once("claim", path, nil).wants(http.StatusOK); string(again.body) != string(first.body) {
		t.Errorf("got %s, then %s", first.body, again.body)
	}
	if b.verify(first.text("key")).text("code") != "VALID" {
		t.Error("the claimed key is not valid")
	}
}

func TestG10KeysOfRequests(t *testing.T) {
	t.Parallel()
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	b := setup(t, options{now: start})
	body := fields{"project_id": b.tenant.Key.ProjectID, "name": "ci"}
	first := b.root.once("k", "/v1/api-keys", body).wants(http.StatusCreated)

	t.Run("RefusesAnotherRequest", func(t *testing.T) {
		p := b.root.once("k", "/v1/api-keys", fields{"project_id": b.tenant.Key.ProjectID, "name": "another"}).refused(422, domain.CodeAnswerDiffers)
		if !strings.Contains(p.Detail, "Idempotency-Key") {
			t.Errorf("it says %q", p.Detail)
		}
		b.root.once("k", "/v1/projects", body).refused(422, domain.CodeAnswerDiffers)
	})
	t.Run("BelongsToItsCaller", func(t *testing.T) {
		other := b.holding("*").once("k", "/v1/api-keys", body).wants(http.StatusCreated)
		if other.text("id") == first.text("id") {
			t.Error("another caller got the answer")
		}
	})
	t.Run("OutlivesTheCallersRotation", func(t *testing.T) {
		caller := b.newKey(nil)
		made := b.as(caller.text("key")).once("mine", "/v1/api-keys", body).wants(http.StatusCreated)
		next := b.root.call("POST", "/v1/api-keys/"+caller.text("id")+"/rotate", fields{}).wants(http.StatusOK)
		if again := b.as(next.text("key")).once("mine", "/v1/api-keys", body).wants(http.StatusCreated); again.text("id") != made.text("id") {
			t.Error("the next generation got another answer")
		}
	})
	t.Run("IsNotForTheRevoked", func(t *testing.T) {
		caller := b.newKey(nil)
		holder := b.as(caller.text("key"))
		holder.once("mine", "/v1/api-keys", body).wants(http.StatusCreated)
		b.root.call("DELETE", "/v1/api-keys/"+caller.text("id"), nil).wants(http.StatusNoContent)
		holder.once("mine", "/v1/api-keys", body).refused(401, domain.CodeUnauthenticated)
	})
	t.Run("IsFreeAfterARefusal", func(t *testing.T) {
		b.root.once("typo", "/v1/api-keys", fields{"project_id": b.tenant.Key.ProjectID, "name": ""}).refused(422, domain.CodeValidation)
		b.root.once("typo", "/v1/api-keys", body).wants(http.StatusCreated)
	})
	t.Run("RefusesWhatIsNoKey", func(t *testing.T) {
		for _, key := range []string{`"`, `""`, "a b", "ä", strings.Repeat("x", 256), `a"b`, `a\b`} {
			if p := b.root.once(key, "/v1/api-keys", body).refused(400, domain.CodeInvalidRequest); len(p.Errors) != 1 || p.Errors[0].Field != "Idempotency-Key" {
				t.Errorf("%q: %+v", key, p)
			}
		}
		two := b.root.request("POST", "/v1/api-keys", body, "Idempotency-Key", "a")
		two.Header.Add("Idempotency-Key", "b")
		response, err := b.root.http.Do(two)
		must(t, err)
		_ = response.Body.Close()
		if response.StatusCode != http.StatusBadRequest {
			t.Errorf("two keys got %d", response.StatusCode)
		}
	})
	t.Run("NeverRepeatsAVerdict", func(t *testing.T) { // G1 comes first
		key := b.newKey(nil)
		ask := fields{"key": key.text("key")}
		if code := b.root.once("v", "/v1/api-keys/verify", ask).text("code"); code != "VALID" {
			t.Fatal(code)
		}
		b.root.call("DELETE", "/v1/api-keys/"+key.text("id"), nil).wants(http.StatusNoContent)
		if code := b.root.once("v", "/v1/api-keys/verify", ask).text("code"); code != "REVOKED" {
			t.Errorf("after the revocation it is %s", code)
		}
	})
	t.Run("LastsADay", func(t *testing.T) {
		b.clock.advance(projections.AnswersKept - time.Second)
		if again := b.root.once("k", "/v1/api-keys", body).wants(http.StatusCreated); again.text("id") != first.text("id") {
			t.Error("forgotten too early")
		}
		b.clock.advance(time.Second)
		later := b.root.once("k", "/v1/api-keys", body).wants(http.StatusCreated)
		if later.text("id") == first.text("id") {
			t.Error("kept for too long")
		}
		if again := b.root.once("k", "/v1/api-keys", body); again.text("id") != later.text("id") {
			t.Error("the new answer is not kept")
		}
		b.clock.advance(projections.AnswersKept)
		must(t, b.commands.ForgetAnswers(t.Context(), b.clock.Now()))
		if n := b.count("answers"); n != 0 {
			t.Errorf("%d answers are left", n)
		}
	})
}

// The database alone opens no answer, and does not even tell which requests were the same.
func TestG10AnswersAreSealed(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	b := setup(t, options{db: db})
	made := b.root.once("a-telling-key", "/v1/api-keys", fields{"project_id": b.tenant.Key.ProjectID, "name": "ci"}).wants(http.StatusCreated)
	var row string
	must(t, db.OwnerPool(t).QueryRow(t.Context(), `SELECT id::text || encode(sealed, 'escape') || encode(sealed, 'base64') FROM answers`).Scan(&row))
	for _, plain := range []string{made.text("key"), made.text("id"), "a-telling-key", "fingerprint"} {
		if strings.Contains(row, plain) {
			t.Errorf("the row shows %q", plain)
		}
	}
}

// A storm of retries over two replicas makes one key, and all get its answer.
func TestG10Storm(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	second := b.replica()
	body := fields{"project_id": b.tenant.Key.ProjectID, "name": "ci"}
	for _, key := range []string{"storm-1", "storm-2", "storm-3"} {
		before := b.head()
		answers := make([]*answer, 50)
		var all sync.WaitGroup
		for i := range answers {
			root := []*client{b.root, second.root}[i%2]
			all.Go(func() {
				a, err := root.try("POST", "/v1/api-keys", body, "Idempotency-Key", key)
				if err != nil {
					t.Error(err)
					return
				}
				answers[i] = a
			})
		}
		all.Wait()
		for _, a := range answers {
			if a == nil || a.status != http.StatusCreated || string(a.body) != string(answers[0].body) {
				t.Fatalf("got %+v beside %s", a, answers[0].body)
			}
		}
		if made := b.head() - before; made != 1 {
			t.Errorf("%d keys were made", made)
		}
	}
}

// Two replicas that carry the same request out find out at the commit: the later one does nothing at all.
func TestG10TheCommitDecides(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	id := projections.AnswerID{1}
	by := commands.By{Caller: b.tenant.Key.Caller(), Answer: &commands.Answer{ID: id, Show: func(any) ([]byte, error) { return []byte("first"), nil }}}
	create := commands.CreateKey{ProjectID: b.tenant.Key.ProjectID, Name: "ci"}
	_, err := b.commands.CreateKey(t.Context(), by, create)
	must(t, err)
	head := b.head()
	if _, err = b.commands.CreateKey(t.Context(), by, create); domain.CodeOf(err) != domain.CodeAnswerInUse || b.head() != head {
		t.Errorf("got %v, and %d events", err, b.head()-head)
	}
	// A neighbour in the same transaction is not drawn into it.
	var pair sync.WaitGroup
	results := make([]error, 2)
	for i, who := range []commands.By{by, {Caller: by.Caller}} {
		pair.Go(func() { _, results[i] = b.commands.CreateKey(t.Context(), who, create) })
	}
	pair.Wait()
	if domain.CodeOf(results[0]) != domain.CodeAnswerInUse || results[1] != nil {
		t.Errorf("got %v", results)
	}
	kept, err := b.commands.KeptAnswer(t.Context(), id)
	if err != nil || string(kept) != "first" {
		t.Errorf("kept %q, %v", kept, err)
	}
}

// A retry that comes while the first is under way waits for it; if that takes too long it is
// told so (see begin).
func TestG10WaitsForTheFirst(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}, 2), make(chan struct{})
	held := sync.OnceFunc(func() { entered <- struct{}{}; <-leave })
	b := setup(t, options{commands: func(c *commands.Config) {
		check := c.CheckURL
		c.CheckURL = func(url string) error { held(); return check(url) }
	}})
	body := fields{"project_id": b.tenant.Key.ProjectID, "name": "ci", "rotation_interval_days": 30, "rotation_webhook_url": "https://hooks.example.com/"}
	first := make(chan *answer, 2)
	send := func() {
		a, err := b.root.try("POST", "/v1/api-keys", body, "Idempotency-Key", "slow")
		if err != nil {
			t.Error(err)
		}
		first <- a
	}
	go send()
	<-entered
	go send()
	select {
	case a := <-first:
		t.Fatalf("the retry did not wait: %d %s", a.status, a.body)
	case <-time.After(50 * time.Millisecond): // it could only be seen not to come
	}
	close(leave)
	one, two := <-first, <-first
	if string(one.body) != string(two.body) || one.status != http.StatusCreated {
		t.Errorf("got %d %s and %d %s", one.status, one.body, two.status, two.body)
	}
}

func TestIfMatch(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	key := b.newKey(nil)
	path := "/v1/api-keys/" + key.text("id")
	seen := b.root.call("GET", path, nil).wants(200).header.Get("ETag")
	if seen != `"1"` || key.header.Get("ETag") != seen {
		t.Fatalf("the tag is %s, after the creation %s", seen, key.header.Get("ETag"))
	}
	renamed := b.root.call("PATCH", path, fields{"name": "b"}, "If-Match", seen).wants(200)
	if renamed.header.Get("ETag") != `"2"` {
		t.Errorf("after the edit the tag is %s", renamed.header.Get("ETag"))
	}
	for _, stale := range []string{seen, `"0"`, `"99"`, `W/"2"`, `"somebody-elses"`, `"2 "`, `"02"`} {
		head := b.head()
		want, code := 412, domain.CodePrecondition
		if strings.HasPrefix(stale, "W/") {
			want, code = 400, domain.CodeInvalidRequest
		}
		b.root.call("PATCH", path, fields{"name": "c"}, "If-Match", stale).refused(want, code)
		b.root.call("POST", path+"/rotate", fields{}, "If-Match", stale).refused(want, code)
		b.root.call("DELETE", path, nil, "If-Match", stale).refused(want, code)
		if b.head() != head {
			t.Errorf("%s: something was done", stale)
		}
	}
	for _, malformed := range []string{"2", `"1", "2"`, `"`, `""2"`} {
		b.root.call("PATCH", path, fields{"name": "c"}, "If-Match", malformed).refused(400, domain.CodeInvalidRequest)
	}
	rotated := b.root.call("POST", path+"/rotate", fields{}, "If-Match", `"2"`).wants(200)
	next := "/v1/api-keys/" + rotated.text("new_key_id")
	if tag := b.root.call("GET", next, nil).header.Get("ETag"); tag != rotated.header.Get("ETag") || tag != `"3"` {
		t.Errorf("after the rotation the tag is %s, its answer said %s", tag, rotated.header.Get("ETag"))
	}
	b.root.call("PATCH", next, fields{"name": "d"}, "If-Match", "*").wants(200)
	b.root.call("DELETE", next, nil, "If-Match", `"4"`).wants(204)
}
