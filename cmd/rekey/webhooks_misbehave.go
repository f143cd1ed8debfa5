package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/rekeyhq/rekey/internal/webhook"
)

const (
	maxKeptBody = 1 << 20
	hugeBody    = 1 << 30
)

// misbehaviour is what a receiver may do wrong, to see what rekey does then. The message is verified and printed as
// ever; only the answer is another one.
type misbehaviour struct {
	delay    time.Duration
	status   int
	redirect string
	huge     bool
	echo     bool
	noProof  bool
}

func (m *misbehaviour) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.DurationVar(&m.delay, "delay", 0, "misbehave: answer only after this time")
	flags.IntVar(&m.status, "status", 0, "misbehave: answer with this status, such as 500 or 410")
	flags.StringVar(&m.redirect, "redirect", "", "misbehave: answer with a redirect to this URL (307, or --status)")
	flags.BoolVar(&m.huge, "huge-body", false, "misbehave: answer with a body of 1 GiB")
	flags.BoolVar(&m.echo, "echo", false, "misbehave: answer with the message, its secret included")
	flags.BoolVar(&m.noProof, "no-proof", false, "misbehave: leave out what proves that a message arrived")
}

func (m *misbehaviour) check() error {
	switch {
	case m.status != 0 && (m.status < 200 || m.status > 599):
		return errors.New("--status is not between 200 and 599")
	case m.redirect != "" && m.status != 0 && (m.status < 300 || m.status > 399):
		return errors.New("--redirect needs a --status between 300 and 399, or none")
	case m.huge && m.echo:
		return errors.New("--huge-body and --echo are two bodies; use one")
	case m.delay < 0:
		return errors.New("--delay is negative")
	}
	return nil
}

// wrap lets next do its work, and gives another answer than its own. What next refuses is answered as it says, since a
// stranger is not to learn how we misbehave.
func (m misbehaviour) wrap(next http.Handler) http.Handler {
	if m == (misbehaviour{}) {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A slow answer is meant to be slow.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
		var body bytes.Buffer
		r.Body = io.NopCloser(io.TeeReader(r.Body, &limited{&body, maxKeptBody}))
		kept := &keptAnswer{header: make(http.Header)}
		next.ServeHTTP(kept, r)
		if kept.status >= http.StatusBadRequest {
			maps.Copy(w.Header(), kept.header)
			w.WriteHeader(kept.status)
			_, _ = w.Write(kept.body.Bytes())
			return
		}
		if wait(r.Context(), m.delay) {
			m.answer(w, kept, body.Bytes())
		}
	})
}

func (m misbehaviour) answer(w http.ResponseWriter, kept *keptAnswer, message []byte) {
	maps.Copy(w.Header(), kept.header)
	if m.noProof {
		w.Header().Del(webhook.HeaderAck)
		w.Header().Del(webhook.HeaderChallenge)
	}
	status := m.status
	switch {
	case status != 0:
	case m.redirect != "":
		status = http.StatusTemporaryRedirect
	case m.huge || m.echo:
		status = http.StatusOK // 204 has no body
	default:
		status = kept.status
	}
	if m.redirect != "" {
		w.Header().Set("Location", m.redirect)
	}
	w.WriteHeader(status)
	switch {
	case m.echo:
		_, _ = w.Write(message)
	case m.huge:
		chunk := bytes.Repeat([]byte("x"), 64<<10)
		for sent := 0; sent < hugeBody; sent += len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
}

// wait says whether the time passed before the other side went away.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// keptAnswer is an answer that is not sent yet.
type keptAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (k *keptAnswer) Header() http.Header { return k.header }

func (k *keptAnswer) WriteHeader(status int) {
	if k.status == 0 {
		k.status = status
	}
}

func (k *keptAnswer) Write(p []byte) (int, error) {
	k.WriteHeader(http.StatusOK)
	return k.body.Write(p)
}

// limited keeps the first bytes of what is written to it.
type limited struct {
	to   *bytes.Buffer
	most int
}

func (l *limited) Write(p []byte) (int, error) {
	l.to.Write(p[:min(len(p), max(0, l.most-l.to.Len()))])
	return len(p), nil
}
