package api_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
)

type listedKey struct {
	ID            domain.KeyID
	LineageID     domain.LineageID     `json:"lineage_id"`
	EnvironmentID domain.EnvironmentID `json:"environment_id"`
	Status        string
}

// pages follows Link headers to the end.
func pages[T any](t *testing.T, c *client, path string) []T {
	t.Helper()
	var all []T
	for path != "" {
		a := c.call("GET", path, nil).wants(200)
		var page []T
		a.into(&page)
		all = append(all, page...)
		from := path
		if path = next(t, a); path == from || path != "" && len(page) == 0 {
			t.Fatalf("%s leads nowhere", from)
		}
	}
	return all
}

// next is the target of the Link header.
func next(t *testing.T, a *answer) string {
	t.Helper()
	link := a.header.Get("Link")
	if link == "" {
		return ""
	}
	target, rel, ok := strings.Cut(link, ">; ")
	if !ok || !strings.HasPrefix(target, "</") || rel != `rel="next"` {
		t.Fatalf("Link %q", link)
	}
	return target[1:]
}

// TestPages walks 1,200 keys while more are made: newest first, none twice, none left out.
func TestPages(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	project := string(b.tenant.Key.ProjectID)
	by := commands.By{Caller: domain.System(), Actor: domain.ActorSetup}
	create := func(ctx context.Context, n int) (domain.KeyID, error) {
		made, err := b.commands.CreateKey(ctx, by, commands.CreateKey{ProjectID: b.tenant.Key.ProjectID, Name: fmt.Sprint(n), Scopes: domain.Scopes{"a:b"}})
		if err != nil {
			return "", err
		}
		return made.Key.ID, nil
	}
	want := []domain.KeyID{b.tenant.Key.ID}
	var mu sync.Mutex
	var group sync.WaitGroup
	for worker := range 60 {
		group.Go(func() {
			for n := range 20 {
				id, err := create(t.Context(), worker*20+n)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				want = append(want, id)
				mu.Unlock()
			}
		})
	}
	group.Wait()

	var made atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	group.Go(func() {
		for ctx.Err() == nil {
			if _, err := create(context.WithoutCancel(ctx), 0); err != nil {
				t.Error(err)
				return
			}
			made.Add(1)
		}
	})
	eventually(t, "keys being made meanwhile", func() bool { return made.Load() > 0 })
	keys := pages[listedKey](t, b.root, "/v1/api-keys?limit=37&project_id="+project)
	stop()
	group.Wait()

	var got []domain.KeyID
	for i, k := range keys {
		if i > 0 && keys[i-1].ID <= k.ID {
			t.Fatalf("%s comes after %s", k.ID, keys[i-1].ID)
		}
		if slices.Contains(want, k.ID) {
			got = append(got, k.ID)
		}
	}
	slices.Sort(want)
	slices.Reverse(want)
	if !slices.Equal(got, want) {
		t.Errorf("saw %d of %d keys", len(got), len(want))
	}
	if made.Load() < 2 {
		t.Errorf("only %d keys were made meanwhile", made.Load())
	}
}

// TestFilters shows what the filters of the list select, and that the links keep them.
func TestFilters(t *testing.T) {
	t.Parallel()
	b := setup(t, options{now: began})
	project := string(b.tenant.Key.ProjectID)
	environment := b.root.call("POST", "/v1/environments", fields{"project_id": project, "name": "test"}).wants(201).text("id")
	for range 3 {
		b.newKey(fields{"environment_id": environment})
	}
	first := b.newKey(nil)
	b.clock.advance(time.Second) // ids sort by the millisecond
	second := b.root.call("POST", "/v1/api-keys/"+first.text("id")+"/rotate", fields{"grace_period_seconds": 0}).wants(200).text("new_key_id")
	b.clock.advance(time.Second)
	third := b.root.call("POST", "/v1/api-keys/"+second+"/rotate", "{}").wants(200).text("new_key_id")
	b.clock.advance(time.Second)
	revoked := b.newKey(nil)
	b.root.call("DELETE", "/v1/api-keys/"+revoked.text("id"), nil).wants(204)

	ids := func(query string) (ids []string) {
		for _, k := range pages[listedKey](t, b.root, "/v1/api-keys?limit=1&project_id="+project+query) {
			ids = append(ids, string(k.ID))
		}
		return ids
	}
	if live := ids(""); len(live) != 6 || slices.Contains(live, first.text("id")) || slices.Contains(live, revoked.text("id")) {
		t.Errorf("live keys: %v", live)
	}
	if all := ids("&include_revoked=true"); len(all) != 8 || !slices.Contains(all, first.text("id")) || all[0] != revoked.text("id") {
		t.Errorf("all keys: %v", all)
	}
	if lineage := ids("&lineage_id=" + first.text("lineage_id")); !slices.Equal(lineage, []string{third, second, first.text("id")}) {
		t.Errorf("lineage: %v", lineage)
	}
	if inTest := ids("&environment_id=" + environment); len(inTest) != 3 {
		t.Errorf("environment: %v", inTest)
	}
	if none := ids("&environment_id=" + environment + "&lineage_id=" + first.text("lineage_id")); none != nil {
		t.Errorf("a lineage that is not in the environment: %v", none)
	}
}

// TestPagesOfOtherLists walks the lists that are oldest first.
func TestPagesOfOtherLists(t *testing.T) {
	t.Parallel()
	b := setup(t, options{})
	for i := range 4 {
		b.newOrganization(fmt.Sprint("organization ", i))
		project := b.root.call("POST", "/v1/projects", fields{"name": fmt.Sprint("project ", i)}).wants(201).text("id")
		b.root.call("POST", "/v1/environments", fields{"project_id": project, "name": "test"}).wants(201)
	}
	events := int(b.head())
	for path, want := range map[string]int{"/v1/organizations?limit=2": 5, "/v1/projects?limit=2": 5, "/v1/environments?limit=2": 9} {
		all := pages[struct{ ID string }](t, b.root, path)
		if !slices.IsSortedFunc(all, func(a, b struct{ ID string }) int { return strings.Compare(a.ID, b.ID) }) || len(all) != want {
			t.Errorf("%s: %d items, want %d: %v", path, len(all), want, all)
		}
	}
	type event struct{ Position int64 }
	mine := pages[event](t, b.root, "/v1/events?limit=3")
	if !slices.IsSortedFunc(mine, func(a, b event) int { return int(a.Position - b.Position) }) || len(mine) != events-4*4 {
		t.Errorf("%d events of %d: %v", len(mine), events, mine)
	}
	history := pages[struct{ Version int64 }](t, b.root, "/v1/api-keys/"+string(b.tenant.Key.ID)+"/events?limit=1")
	if len(history) != 1 || history[0].Version != 1 {
		t.Errorf("history %v", history)
	}
}
