package workers

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
)

// StreamEvents is the stream in which every event of the lifecycle lane has its position as sequence.
const StreamEvents = "REKEY_EVENTS"

// EventsFeed relays every event to REKEY_EVENTS, as a CloudEvent in binary mode: what all events carry stands in headers,
// and the body is the payload, byte for byte as it is in the log.
func EventsFeed() Feed {
	return Feed{
		Name:     "relay.events",
		Stream:   streamConfig(StreamEvents, "rekey.events.>"),
		Messages: eventMessages,
		Dense:    true,
	}
}

// streamConfig is what the streams have in common: they are kept on disk, whole, and nothing can be taken out by hand,
// which would be a hole in the audit.
func streamConfig(name, subjects string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:               name,
		Subjects:           []string{subjects},
		Retention:          jetstream.LimitsPolicy,
		Discard:            jetstream.DiscardOld,
		Storage:            jetstream.FileStorage,
		Replicas:           1,
		Duplicates:         2 * time.Minute,
		AllowAtomicPublish: true,
		DenyDelete:         true,
		DenyPurge:          true,
	}
}

func eventMessages(_ context.Context, records []eventstore.Record) ([]*nats.Msg, error) {
	messages := make([]*nats.Msg, len(records))
	for i := range records {
		m, err := eventMessage(&records[i])
		if err != nil {
			return nil, fmt.Errorf("position %d: %w", records[i].Position, err)
		}
		messages[i] = m
	}
	return messages, nil
}

// eventMessage writes one event as a CloudEvent. The media type stands twice: as the attribute, which is what the binding
// for NATS has, and as the header that readers of other bindings look for.
func eventMessage(r *eventstore.Record) (*nats.Msg, error) {
	subject, err := eventSubject(r)
	if err != nil {
		return nil, err
	}
	m := &nats.Msg{Subject: subject, Data: r.Raw, Header: make(nats.Header, 18)}
	set := func(name, value string) {
		if value != "" {
			m.Header[name] = []string{value}
		}
	}
	set(jetstream.MsgIDHeader, string(r.ID))
	set("content-type", "application/json")
	set("ce-specversion", "1.0")
	set("ce-id", percentEncode(string(r.ID)))
	set("ce-source", "rekey")
	set("ce-type", "rekey."+r.Data.Type().Snake())
	set("ce-time", r.OccurredAt.Format(time.RFC3339Nano))
	set("ce-subject", percentEncode(r.StreamID))
	set("ce-datacontenttype", "application/json")
	set("Rekey-Key", percentEncode(string(keyOf(r.Data))))
	set("Rekey-Actor", percentEncode(string(r.Actor)))
	set("Rekey-Version", strconv.FormatInt(r.Version, 10))
	set("Rekey-Revision", strconv.Itoa(r.Revision))
	set("Rekey-Request", percentEncode(r.RequestID))
	return m, nil
}

// eventSubject is where an event is published. The key is not part of it: the server keeps each subject in memory, and
// there are far more keys than projects.
func eventSubject(r *eventstore.Record) (string, error) {
	organization, project := string(r.OrganizationID), cmp.Or(string(r.ProjectID), "-")
	for _, token := range []string{organization, project} {
		if !isSubjectToken(token) {
			return "", fmt.Errorf("%q cannot be part of a subject", token)
		}
	}
	return "rekey.events." + organization + "." + project + "." + r.Data.Type().Snake(), nil
}

// isSubjectToken reports whether an id may stand in a subject: a dot, a space or a wildcard would lead the message
// elsewhere, perhaps to another organization.
func isSubjectToken(s string) bool {
	return s != "" && strings.Trim(s, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-") == ""
}

// keyOf returns the key that an event is about. What concerns the whole lineage or several keys has none.
func keyOf(payload domain.Payload) domain.KeyID {
	switch p := payload.(type) {
	case domain.Created:
		return p.KeyID
	case domain.Rotated:
		return p.KeyID
	case domain.RotationAcknowledged:
		return p.KeyID
	case domain.RotationCancelled:
		return p.KeyID
	case domain.RotationStalled:
		return p.KeyID
	case domain.RotationRedelivered:
		return p.KeyID
	case domain.RotationTimedOut:
		return p.KeyID
	case domain.RotationRolledBack:
		return p.KeyID
	case domain.RotationDeferred:
		return p.KeyID
	case domain.RotationBlocked:
		return p.KeyID
	case domain.GraceChanged:
		return p.KeyID
	case domain.GraceExpired:
		return p.KeyID
	case domain.Revoked:
		return p.KeyID
	case domain.LeakReported:
		return p.KeyID
	case domain.KeyExpiring:
		return p.KeyID
	case domain.UsedInGrace:
		return p.KeyID
	}
	return ""
}

// percentEncode writes a header value as CloudEvents want it: printable ASCII as it is, all else, and the characters that
// have a meaning of their own, as the percent-encoded bytes of its UTF-8 form.
func percentEncode(s string) string {
	plain := func(c byte) bool { return c > ' ' && c < 0x7f && c != '"' && c != '%' }
	if !strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f || !plain(byte(r)) }) {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if plain(s[i]) {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", s[i])
		}
	}
	return b.String()
}
