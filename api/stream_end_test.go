package api_test

import (
	"fmt"
	"testing"
	"time"
)

// TestStreamEndsWithItsKey: what a stream shows is for the key that opened it, as long as that may see it.
func TestStreamEndsWithItsKey(t *testing.T) {
	t.Parallel()
	// What happens to the key itself ends the stream at once: the heartbeat is the ten seconds of production.
	for name, end := range map[string]func(b *bench, key string){
		"Revoked": func(b *bench, key string) { b.root.call("DELETE", key, nil).wants(204) },
		"CutOver": func(b *bench, key string) {
			b.root.call("POST", key+"/rotate", fields{"grace_period_seconds": 0}).wants(200)
		},
		"Narrowed": func(b *bench, key string) {
			b.root.call("PATCH", key, fields{"scopes": []string{"keys:read"}}).wants(200)
		},
		"LimitedToAProject": func(b *bench, key string) {
			b.root.call("PATCH", key, fields{"resources": fields{"project": []string{"proj_other"}}}).wants(200)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, options{})
			made := b.newKey(fields{"scopes": []string{"events:read"}})
			s := b.as(made.text("key")).stream(fmt.Sprint("/v1/events?after=", b.head()))
			end(b, "/v1/api-keys/"+made.text("id"))
			b.newKey(fields{"name": "not for it any more"})
			if n := s.wantEnd(); n != 0 {
				t.Errorf("%d events were sent after the end", n)
			}
		})
	}
	t.Run("ExpiredWithinAHeartbeat", func(t *testing.T) {
		t.Parallel()
		b := setup(t, options{now: began, configure: heartbeat(50 * time.Millisecond)})
		made := b.newKey(fields{"expires_at": began.Add(time.Minute).Format(time.RFC3339)})
		s := b.as(made.text("key")).stream(fmt.Sprint("/v1/events?after=", b.head()))
		b.newKey(nil)
		s.wantNext("Created")
		b.clock.advance(time.Minute)
		s.wantEnd()
	})
	t.Run("ExpiredUnderLoad", func(t *testing.T) { // never quiet, but looked at all the same
		t.Parallel()
		b := setup(t, options{now: began, configure: heartbeat(50 * time.Millisecond)})
		made := b.newKey(fields{"expires_at": began.Add(time.Minute).Format(time.RFC3339)})
		s := b.as(made.text("key")).stream("/v1/events")
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					if _, err := b.root.try("POST", "/v1/projects", fields{"name": "busy"}); err != nil {
						t.Error(err)
					}
				}
			}
		}()
		defer func() { close(stop); <-stopped }()
		for range 20 {
			s.next()
		}
		b.clock.advance(time.Minute)
		s.wantEnd()
	})
	t.Run("NotWhileItsKeyIsRotatedWithGrace", func(t *testing.T) {
		t.Parallel()
		b := setup(t, options{})
		made := b.newKey(nil)
		s := b.as(made.text("key")).stream(fmt.Sprint("/v1/events?after=", b.head()))
		b.root.call("POST", "/v1/api-keys/"+made.text("id")+"/rotate", "{}").wants(200)
		s.wantNext("Rotated")
		b.newKey(nil)
		s.wantNext("Created")
	})
}
