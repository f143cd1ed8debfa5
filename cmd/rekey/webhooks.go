package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5/middleware"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/rekeyhq/rekey/internal/webhook"
)

func newWebhooksCommand() *cobra.Command {
	webhooks := &cobra.Command{Use: "webhooks", Short: "Receive webhooks"}
	webhooks.AddCommand(newListenCommand())
	return webhooks
}

// newListenCommand is a receiver that shows what arrives. It checks every signature; nothing unsigned is shown.
func newListenCommand() *cobra.Command {
	var addr, secretFile string
	cmd := &cobra.Command{
		Use:   "listen",
		Short: "Listen for webhooks, verify them and print them, secrets included",
		Long: `Listens for webhooks, verifies each by its signature, prints the payload as one line of JSON and answers 204.

The signing secret is the rotation_webhook_secret of the key's creation: in REKEY_WEBHOOK_SECRET (several separated by
commas), or in a file that may appear or grow later, one secret per line. An unsigned or wrongly signed request is
answered 401 and not shown.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			secrets, err := secretsFrom(strings.FieldsFunc(os.Getenv("REKEY_WEBHOOK_SECRET"), isListSeparator))
			if err != nil {
				return fmt.Errorf("REKEY_WEBHOOK_SECRET: %w", err)
			}
			if len(secrets) == 0 && secretFile == "" {
				return errors.New("no signing secret; set REKEY_WEBHOOK_SECRET to the rotation_webhook_secret (whsec_...) that creating the key returned, or name a file with --secret-file")
			}
			var config net.ListenConfig
			listener, err := config.Listen(cmd.Context(), "tcp", addr)
			if err != nil {
				return fmt.Errorf("listen on %s: %w; --addr sets another address", addr, err)
			}
			logger := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			handler := &listenHandler{receiver: newPrinter(cmd.OutOrStdout(), secrets), file: secretFile, logger: logger}
			fmt.Fprintf(cmd.ErrOrStderr(), "listening on http://%s\n", listener.Addr())
			group, ctx := errgroup.WithContext(cmd.Context())
			serveHTTP(ctx, group, listener, handler, logger)
			return group.Wait()
		},
	}
	cmd.Flags().StringVar(&addr, "addr", "127.0.0.1:9000", "where to listen")
	cmd.Flags().StringVar(&secretFile, "secret-file", "", "file with signing secrets, one per line; read again for each request")
	return cmd
}

func isListSeparator(r rune) bool { return strings.ContainsRune(", \n\r\t", r) }

func secretsFrom(texts []string) ([]webhook.Secret, error) {
	var secrets []webhook.Secret
	for _, text := range texts {
		secret, err := webhook.ParseSecret(text)
		if err != nil {
			return nil, err
		}
		secrets = append(secrets, secret)
	}
	return secrets, nil
}

// newPrinter is a receiver that prints each verified message as one line.
func newPrinter(out io.Writer, secrets []webhook.Secret) *webhook.Receiver {
	var mu sync.Mutex
	receiver := webhook.NewReceiver(webhook.ReceiverConfig{
		Handle: func(_ context.Context, message webhook.Received) error {
			mu.Lock()
			defer mu.Unlock()
			return json.NewEncoder(out).Encode(struct {
				ID         string          `json:"webhook_id"`
				ReceivedAt time.Time       `json:"received_at"`
				Verified   bool            `json:"verified"`
				Payload    json.RawMessage `json:"payload"`
			}{message.ID, time.Now().UTC(), true, message.Body})
		},
	})
	for _, secret := range secrets {
		receiver.AddSecret(secret)
	}
	return receiver
}

// listenHandler reads the file of secrets again before each request, because the secret is known only once the key is made.
type listenHandler struct {
	receiver *webhook.Receiver
	file     string
	logger   *slog.Logger

	mu    sync.Mutex
	known map[string]bool
}

func (h *listenHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.file != "" {
		h.readFile()
	}
	recorder := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
	h.receiver.ServeHTTP(recorder, r)
	if recorder.Status() >= http.StatusBadRequest {
		h.logger.Warn("a request was refused", "status", recorder.Status(), "webhook_id", r.Header.Get(webhook.HeaderID))
	}
}

func (h *listenHandler) readFile() {
	raw, err := os.ReadFile(h.file)
	if err != nil {
		h.logger.Warn("the file of secrets cannot be read", "error", err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, text := range strings.FieldsFunc(string(raw), isListSeparator) {
		if h.known[text] {
			continue
		}
		secret, err := webhook.ParseSecret(text)
		if err != nil {
			h.logger.Warn("the file of secrets has a line that is no secret", "error", err)
			continue
		}
		if h.known == nil {
			h.known = map[string]bool{}
		}
		h.known[text] = true
		h.receiver.AddSecret(secret)
	}
}
