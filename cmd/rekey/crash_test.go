package main

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	crashes       = 10
	crashClients  = 16
	crashInterval = 12 // keys that rotate by themselves
)

// TestG3KillNine kills rekey with -9 in the middle of a load, again and again. Whatever was acknowledged before must be
// there afterwards, once: in the log, in the read model, in JetStream, and at the receiver.
func TestG3KillNine(t *testing.T) {
	t.Parallel()
	c := newCrashRun(t)
	c.boot(t)
	c.load = startLoad(t, c.rest, crashClients)
	rounds := crashes
	switch {
	case os.Getenv("REKEY_SOAK") == "1":
		rounds = 5 * crashes
	case testing.Short():
		rounds = 3
	}
	for round := range rounds {
		enough := c.load.acknowledged.Load() + 100 + rand.Int64N(1000)
		eventually(t, "acknowledged commands", func() bool { return c.load.acknowledged.Load() >= enough })
		switch {
		case round == 0:
			c.killWhileDelivering(t)
		case round%3 == 2: // now and then Postgres too, which then has to recover
			killPostgres(t, c.dir)
			c.process.kill()
		default:
			c.process.kill()
		}
		c.boot(t)
	}
	c.load.end()
	t.Logf("%d commands were acknowledged, %d got no answer", c.load.acknowledged.Load(), c.load.failed.Load())
	c.load.check(t)
	c.checkRotationsGoOn(t)
	c.checkWebhooks(t)
	c.checkLog(t)
	c.checkEnd(t)
}

// crashRun is a rekey that comes back at the same addresses.
type crashRun struct {
	rest
	dir, nats string
	env       []string
	process   *child
	load      *clients
	hook      *hook
	rotating  []keyInfo
}

func newCrashRun(t *testing.T) *crashRun {
	c := &crashRun{dir: onDisk(t), hook: newHook(t)}
	addr := freeAddr(t)
	c.env = devEnv(c.dir, "REKEY_ADDR="+addr, "REKEY_NATS_ADDR="+freeAddr(t), "REKEY_LOG_LEVEL=warn")
	c.rest = newREST(t, "http://"+addr, "")
	return c
}

// boot starts it at once; the first time it makes the keys that rotate.
func (c *crashRun) boot(t *testing.T) {
	t.Helper()
	c.process = startRekey(t, c.env, "dev")
	fields, took := c.process.awaitReady(t)
	t.Logf("ready after %s", took.Round(time.Millisecond))
	if took > 20*time.Second {
		t.Errorf("ready only after %s", took)
	}
	if c.key != "" {
		return
	}
	c.key = fields["root_key"]
	c.nats = "nats://" + natsToken(t, c.dir) + "@" + strings.TrimPrefix(fields["nats"], "nats://")
	for range crashInterval {
		key := c.create(t, "rotating", map[string]any{
			"rotation_interval_seconds": 2, "grace_period_seconds": 1, "rotation_webhook_url": c.hook.url,
		})
		c.hook.trust(t, key.WebhookSecret)
		c.rotating = append(c.rotating, key)
	}
}

// killPostgres is kill -9 of the first process of the Postgres in a data directory.
func killPostgres(t testing.TB, dir string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "postgres", "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	pid, err := strconv.Atoi(line)
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// natsToken is the one with which rekey's own processes connect.
func natsToken(t testing.TB, dir string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "nats.token"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

// checkRotationsGoOn requires that every key gets to a further generation and its receiver hears of it. An attempt that
// died with its process is made again once its lease has lapsed.
func (c *crashRun) checkRotationsGoOn(t *testing.T) {
	t.Helper()
	began := time.Now()
	next := map[string]int{}
	for _, key := range c.rotating {
		next[key.LineageID] = c.lineage(t, key.LineageID)[0].Generation + 1
	}
	for lineage, generation := range next {
		c.hook.await(t, lineage, generation)
	}
	t.Logf("all rotations go on after %s", time.Since(began).Round(time.Millisecond))
	for _, key := range c.rotating { // and an end, so that the log stands still
		eventually(t, "the end of the lineage", func() bool {
			for _, generation := range c.lineage(t, key.LineageID) {
				if generation.Status == "active" {
					c.revoke(t, generation.ID)
					return false
				}
			}
			return true
		})
	}
}

// killWhileDelivering kills it when a receiver has a message and has not answered yet, and no other message is on its way.
func (c *crashRun) killWhileDelivering(t *testing.T) {
	t.Helper()
	slow := c.rotating[0].LineageID
	defer c.hook.hold(slow)()
	c.hook.await(t, slow, c.lineage(t, slow)[0].Generation+1)
	eventually(t, "a moment without other rotations", func() bool {
		for _, key := range c.rotating[1:] {
			if c.lineage(t, key.LineageID)[0].Status != "active" {
				return false
			}
		}
		return true
	})
	c.process.kill()
}

// rotationFacts are what the events of a rotation say.
type rotationFacts struct {
	RotationID     string     `json:"rotation_id"`
	KeyID          string     `json:"key_id"`
	Generation     int        `json:"generation"`
	EndpointID     string     `json:"endpoint_id"`
	Acknowledged   string     `json:"acknowledged"`
	Level          string     `json:"level"`
	NextRotationAt *time.Time `json:"next_rotation_at"`
}

func rotationOf(t testing.TB, e eventInfo) rotationFacts {
	t.Helper()
	var facts rotationFacts
	if err := json.Unmarshal(e.Data, &facts); err != nil {
		t.Fatal(err)
	}
	return facts
}

func messageOf(t testing.TB, body []byte) rotationMessage {
	t.Helper()
	var m rotationMessage
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// checkWebhooks requires one message per rotation, whose repetitions are the same to the byte, and a message behind each
// acknowledgment.
func (c *crashRun) checkWebhooks(t *testing.T) {
	t.Helper()
	idOf, bodyOf, repeated := map[string]string{}, map[string]string{}, 0
	for _, m := range c.hook.messages(t) {
		if id, known := idOf[m.Data.RotationID]; known && id != m.id {
			t.Errorf("rotation %s was sent as %s and as %s", m.Data.RotationID, id, m.id)
		}
		if body, known := bodyOf[m.id]; known {
			repeated++
			if body != m.body {
				t.Errorf("the repetition of %s differs", m.id)
			}
		}
		idOf[m.Data.RotationID], bodyOf[m.id] = m.id, m.body
	}
	acknowledged := 0
	for _, key := range c.rotating {
		for _, e := range c.history(t, key.ID) {
			if r := rotationOf(t, e); e.Type == "RotationAcknowledged" {
				if acknowledged++; idOf[r.RotationID] == "" || r.Level != "accepted" {
					t.Errorf("rotation %s is acknowledged (%s), but its receiver never saw it", r.RotationID, r.Level)
				}
			}
		}
	}
	if repeated == 0 {
		t.Error("the attempt that was cut off was not made again")
	}
	t.Logf("%d rotations were delivered, %d attempts repeated", acknowledged, repeated)
}

// checkLog requires that the streams are the log, and that the read model is what the log says.
func (c *crashRun) checkLog(t *testing.T) {
	t.Helper()
	events, stream := c.allEvents(t), openStream(t, c.nats, "REKEY_EVENTS")
	eventually(t, "a log that stands still while it is read", func() bool { // graces of the load's keys may still end
		info, err := stream.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.State.LastSeq <= uint64(len(events)) {
			return true
		}
		events = c.allEvents(t)
		return false
	})
	checkEventsStream(t, c.nats, events)
	checkWebhooksStream(t, c.nats, events)
	check := startRekey(t, []string{"REKEY_DATA_DIR=" + c.dir}, "projections", "check")
	if code := check.wait(t); code != 0 || !strings.Contains(check.out.String(), "the read model is what the log says") {
		t.Errorf("projections check ended with %d: %s%s", code, check.out.tail(), check.errs.tail())
	}
}

// checkEnd stops it in good order and requires that nothing of it is left.
func (c *crashRun) checkEnd(t *testing.T) {
	t.Helper()
	c.call(t, "GET", "/readyz", nil, http.StatusOK, nil)
	processes := footprintOf(t, c.dir)
	if code, took := c.process.terminate(t); code != 0 {
		t.Errorf("SIGTERM ended it after %s with %d", took, code)
	}
	if left := processes.processes(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
