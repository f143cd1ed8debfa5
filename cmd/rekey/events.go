package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/spf13/cobra"
)

func newEventsCommand() *cobra.Command {
	events := &cobra.Command{Use: "events", Short: "The audit feed (REKEY_URL, REKEY_KEY)"}
	var after int64
	var raw bool
	tail := &cobra.Command{
		Use: "tail", Short: "Show each event of your organization as it is committed", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := newClient()
			if err != nil {
				return err
			}
			t := tailer{client: c, after: after, raw: raw, out: cmd.OutOrStdout(), notes: cmd.ErrOrStderr()}
			return t.run(cmd.Context())
		},
	}
	tail.Flags().Int64Var(&after, "after", 0, "begin after this position")
	tail.Flags().BoolVar(&raw, "json", false, "print each event as one line of JSON")
	events.AddCommand(tail)
	return events
}

// tailer follows the feed and comes back after an interruption where it was.
type tailer struct {
	client     *client
	after      int64
	raw        bool
	out, notes io.Writer
}

// run follows until ctx ends. Only a refusal by the server ends it earlier.
func (t *tailer) run(ctx context.Context) error {
	policy := backoff.WithContext(backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(200*time.Millisecond), backoff.WithMaxInterval(2*time.Second), backoff.WithMaxElapsedTime(0)), ctx)
	err := backoff.RetryNotify(func() error {
		err := t.follow(ctx)
		if refused, ok := errors.AsType[refusedError](err); ok {
			return backoff.Permanent(refused.error)
		}
		policy.Reset()
		return err
	}, policy, func(err error, _ time.Duration) { fmt.Fprintln(t.notes, "reconnecting:", err) })
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// refusedError is an answer that trying again will not change.
type refusedError struct{ error }

// follow reads one connection to its end.
func (t *tailer) follow(ctx context.Context) error {
	response, err := t.client.send(ctx, "GET", fmt.Sprintf("/v1/events?after=%d", t.after), nil, "text/event-stream")
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10))
		err := problemError(response.StatusCode, body)
		if response.StatusCode < http.StatusInternalServerError {
			return refusedError{err}
		}
		return err
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		if err := t.show([]byte(data)); err != nil {
			return err
		}
	}
	return errors.Join(errors.New("the stream ended"), lines.Err())
}

// show prints one event.
func (t *tailer) show(data []byte) error {
	var e struct {
		Position   int64           `json:"position"`
		Type       string          `json:"type"`
		StreamID   string          `json:"stream_id"`
		Version    int64           `json:"version"`
		Actor      string          `json:"actor"`
		OccurredAt time.Time       `json:"occurred_at"`
		Data       json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return fmt.Errorf("read event: %w", err)
	}
	t.after = e.Position
	if t.raw {
		_, err := fmt.Fprintf(t.out, "%s\n", data)
		return err
	}
	_, err := fmt.Fprintf(t.out, "%6d  %s  %-20s  %s v%d  by %s\n        %s\n",
		e.Position, e.OccurredAt.Format("15:04:05.000"), e.Type, e.StreamID, e.Version, e.Actor, e.Data)
	return err
}
