package embedded

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsTestRight is a subject to publish on or to subscribe to, and whether that must be allowed.
type natsTestRight struct {
	publish, subscribe string
	allowed            bool
}

// A subscriber that could publish would forge the audit; one that could subscribe or filter beyond its organization would
// read another tenant's.
func TestNATSRights(t *testing.T) {
	n := natsTestStart(t, natsTestConfig(t))
	natsTestStreams(t, n)
	common := []natsTestRight{
		{publish: "$JS.API.INFO", allowed: true},
		{publish: "$JS.API.STREAM.INFO.REKEY_EVENTS", allowed: true},
		{publish: "$JS.API.STREAM.INFO.OTHER"},
		{publish: "$JS.API.CONSUMER.INFO.REKEY_WEBHOOKS.c", allowed: true},
		{publish: "$JS.API.CONSUMER.MSG.NEXT.REKEY_EVENTS.c", allowed: true},
		{publish: "$JS.API.CONSUMER.DELETE.REKEY_EVENTS.c", allowed: true},
		{publish: "$JS.ACK.REKEY_EVENTS.c.1.1.1.1.1", allowed: true},
		{publish: "$JS.FC.REKEY_EVENTS.c.x", allowed: true},
		{subscribe: "_INBOX.x.*", allowed: true},
		{publish: "rekey.events.org_a.proj_1.created"},
		{publish: "rekey.webhooks.org_a.proj_1"},
		{publish: "rekey.hint.revoked"},
		{publish: "_INBOX.x.y"},
		{publish: "_REKEY.x.y"},
		{publish: "$JS.API.STREAM.MSG.GET.REKEY_EVENTS"},
		{publish: "$JS.API.DIRECT.GET.REKEY_EVENTS"},
		{publish: "$JS.API.DIRECT.GET.REKEY_EVENTS.rekey.events.org_a.proj_1.created"},
		{publish: "$JS.API.STREAM.CREATE.MINE"},
		{publish: "$JS.API.STREAM.UPDATE.REKEY_EVENTS"},
		{publish: "$JS.API.STREAM.PURGE.REKEY_EVENTS"},
		{publish: "$JS.API.STREAM.DELETE.REKEY_EVENTS"},
		{publish: "$JS.API.STREAM.MSG.DELETE.REKEY_EVENTS"},
		{publish: "$JS.API.CONSUMER.CREATE.OTHER.c"},
		{publish: "$SYS.REQ.SERVER.PING"},
		{subscribe: ">"},
		{subscribe: "$JS.>"},
		{subscribe: "$SYS.>"},
		{subscribe: "_REKEY.>"},
	}
	subscriber := []natsTestRight{
		{subscribe: "rekey.events.org_a.>", allowed: true},
		{subscribe: "rekey.events.org_a.proj_1.created", allowed: true},
		{subscribe: "rekey.webhooks.org_a.>", allowed: true},
		{subscribe: "rekey.events.org_b.>"},
		{subscribe: "rekey.events.org_b.proj_1.created"},
		{subscribe: "rekey.events.*.proj_1.created"},
		{subscribe: "rekey.events.>"},
		{subscribe: "rekey.webhooks.org_b.>"},
		{subscribe: "rekey.>"},
		{publish: "$JS.API.CONSUMER.CREATE.REKEY_EVENTS.c.rekey.events.org_a.>", allowed: true},
		{publish: "$JS.API.CONSUMER.CREATE.REKEY_EVENTS.c.rekey.events.org_a.proj_1.*", allowed: true},
		{publish: "$JS.API.CONSUMER.CREATE.REKEY_WEBHOOKS.c.rekey.webhooks.org_a.>", allowed: true},
		{publish: "$JS.API.CONSUMER.CREATE.REKEY_EVENTS"},
		{publish: "$JS.API.CONSUMER.CREATE.REKEY_EVENTS.c"},
		{publish: "$JS.API.CONSUMER.CREATE.REKEY_EVENTS.c.rekey.events.org_b.>"},
		{publish: "$JS.API.CONSUMER.CREATE.REKEY_EVENTS.c.rekey.events.*.>"},
		{publish: "$JS.API.CONSUMER.CREATE.REKEY_EVENTS.c.rekey.events.>"},
		{publish: "$JS.API.CONSUMER.CREATE.REKEY_EVENTS.c.>"},
		{publish: "$JS.API.CONSUMER.CREATE.REKEY_WEBHOOKS.c.rekey.events.org_a.>"},
		{publish: "$JS.API.CONSUMER.DURABLE.CREATE.REKEY_EVENTS.c"},
	}
	operator := []natsTestRight{
		{subscribe: "rekey.>", allowed: true},
		{subscribe: "rekey.events.org_b.>", allowed: true},
		{publish: "$JS.API.CONSUMER.CREATE.REKEY_EVENTS", allowed: true},
		{publish: "$JS.API.CONSUMER.CREATE.REKEY_EVENTS.c", allowed: true},
		{publish: "$JS.API.CONSUMER.CREATE.REKEY_EVENTS.c.rekey.events.*.>", allowed: true},
		{publish: "$JS.API.CONSUMER.DURABLE.CREATE.REKEY_WEBHOOKS.c", allowed: true},
	}
	natsTestRights(t, n, "key-a", append(subscriber, common...))
	natsTestRights(t, n, natsTestOperator, append(operator, common...))
}

func natsTestRights(t *testing.T, n *NATS, token string, rights []natsTestRight) {
	t.Helper()
	for _, r := range rights {
		quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
		nc := natsTestDial(t, n, nats.Token(token), quiet)
		var err error
		if r.publish != "" {
			err = nc.Publish(r.publish, nil)
		} else {
			_, err = nc.SubscribeSync(r.subscribe)
		}
		if err := errors.Join(err, nc.Flush()); err != nil {
			t.Fatal(err)
		}
		// The server's refusal comes before its answer to the flush.
		refused := errors.Is(nc.LastError(), nats.ErrPermissionViolation)
		if refused == r.allowed {
			t.Errorf("%s: %+v: refused %v, last error %v", token, r, refused, nc.LastError())
		}
	}
}

func TestNATSReading(t *testing.T) {
	n := natsTestStart(t, natsTestConfig(t))
	natsTestStreams(t, n)
	t.Run("OrderedConsumerSeesItsOrganization", func(t *testing.T) {
		js, err := jetstream.New(natsTestDial(t, n, nats.Token("key-a")))
		if err != nil {
			t.Fatal(err)
		}
		for stream, prefix := range readable {
			cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{prefix + ".org_a.>"}}
			consumer, err := js.OrderedConsumer(t.Context(), stream, cfg)
			if err != nil {
				t.Fatal(err)
			}
			natsTestBodies(t, consumer, "org_a")
		}
	})
	t.Run("DurableConsumerIsAcknowledged", func(t *testing.T) {
		js, err := jetstream.New(natsTestDial(t, n, nats.Token("key-b")))
		if err != nil {
			t.Fatal(err)
		}
		cfg := jetstream.ConsumerConfig{Durable: "auditor", FilterSubject: "rekey.events.org_b.>"}
		consumer, err := js.CreateOrUpdateConsumer(t.Context(), "REKEY_EVENTS", cfg)
		if err != nil {
			t.Fatal(err)
		}
		msg, err := consumer.Next(jetstream.FetchMaxWait(natsTestTimeout))
		if err != nil {
			t.Fatal(err)
		}
		if err := msg.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
		if info, err := consumer.Info(t.Context()); err != nil || info.AckFloor.Stream != 2 {
			t.Fatalf("got %+v, error %v", info, err)
		}
		if err := js.DeleteConsumer(t.Context(), "REKEY_EVENTS", "auditor"); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("PushConsumerOfOlderClientsWorks", func(t *testing.T) {
		js, err := natsTestDial(t, n, nats.Token("key-a")).JetStream()
		if err != nil {
			t.Fatal(err)
		}
		sub, err := js.SubscribeSync("rekey.events.org_a.>", nats.OrderedConsumer(), nats.BindStream("REKEY_EVENTS"))
		if err != nil {
			t.Fatal(err)
		}
		if msg, err := sub.NextMsg(natsTestTimeout); err != nil || string(msg.Data) != "org_a" {
			t.Fatalf("got %v, error %v", msg, err)
		}
	})
	t.Run("BodyCannotWidenTheFilter", func(t *testing.T) {
		nc := natsTestDial(t, n, nats.Token("key-a"))
		for _, config := range []string{
			`{"name":"c","filter_subject":"rekey.events.org_b.>"}`,
			`{"name":"c","filter_subjects":["rekey.events.org_a.>","rekey.events.org_b.>"]}`,
			`{"name":"c"}`,
		} {
			answer, err := nc.Request("$JS.API.CONSUMER.CREATE.REKEY_EVENTS.c.rekey.events.org_a.>",
				fmt.Appendf(nil, `{"stream_name":"REKEY_EVENTS","config":%s}`, config), natsTestTimeout)
			if err != nil || !bytes.Contains(answer.Data, []byte(`"error"`)) {
				t.Errorf("%s: got %v, error %v", config, answer, err)
			}
		}
	})
	t.Run("OperatorSeesAll", func(t *testing.T) {
		js, err := jetstream.New(natsTestDial(t, n, nats.Token(natsTestOperator)))
		if err != nil {
			t.Fatal(err)
		}
		consumer, err := js.OrderedConsumer(t.Context(), "REKEY_EVENTS", jetstream.OrderedConsumerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		natsTestBodies(t, consumer, "org_a", "org_b")
	})
}

// natsTestBodies reads all that the consumer has and compares the bodies.
func natsTestBodies(t *testing.T, consumer jetstream.Consumer, want ...string) {
	t.Helper()
	batch, err := consumer.FetchNoWait(len(want) + 1)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for msg := range batch.Messages() {
		got = append(got, string(msg.Data()))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || batch.Error() != nil {
		t.Errorf("got %v, error %v, want %v", got, batch.Error(), want)
	}
}
