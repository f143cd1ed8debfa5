package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/rekeyhq/rekey/internal/webhook"
)

func newWebhooksCommand() *cobra.Command {
	webhooks := &cobra.Command{Use: "webhooks", Short: "Receive webhooks"}
	webhooks.AddCommand(newListenCommand(), newKeygenCommand())
	return webhooks
}

// listenOptions are the flags of `rekey webhooks listen`.
type listenOptions struct {
	addr, secretFile, privateKeyFile, keyFile string
	showSecrets                               bool
	misbehaviour                              misbehaviour
}

// newListenCommand is a receiver that shows what arrives. It checks every signature; nothing unsigned is shown.
func newListenCommand() *cobra.Command {
	var o listenOptions
	cmd := &cobra.Command{
		Use:   "listen",
		Short: "Listen for webhooks, verify, answer and print them",
		Long: `Listens for webhooks, verifies each by its signature, prints the payload as one line of JSON and answers 204.

The signing secret is the rotation_webhook_secret of the key's creation, or the signing_secret of an endpoint (whsec_...);
the signing_public_key (whpk_...) does as well. It is read from REKEY_WEBHOOK_SECRET (several separated by commas), or from
a file that may appear or grow later, one per line. An unsigned or wrongly signed request is answered 401 and not shown.

A new secret is answered with proof that it arrived. It is read from the message; or opened with --private-key-file, if the
endpoint seals secrets to a public key (rekey webhooks keygen makes a pair); or fetched from the message's claim URL, with
the key in --key-file where one is needed. It is printed too, unless --show-secrets=false. An endpoint's verification is answered
too.

The last flags make it misbehave, to see what rekey does then.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return listen(cmd, o) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.addr, "addr", "127.0.0.1:9000", "where to listen")
	flags.StringVar(&o.secretFile, "secret-file", "", "file with signing secrets or public keys, one per line; read again for each request")
	flags.StringVar(&o.privateKeyFile, "private-key-file", "", "file with the private keys that open sealed secrets, one per line")
	flags.StringVar(&o.keyFile, "key-file", "", "file with the key to fetch its successor with, at claim URLs")
	flags.BoolVar(&o.showSecrets, "show-secrets", true, "print the secrets too")
	o.misbehaviour.addFlags(cmd)
	return cmd
}

func listen(cmd *cobra.Command, o listenOptions) error {
	if err := o.misbehaviour.check(); err != nil {
		return err
	}
	keys, err := readPrivateKeys(o.privateKeyFile)
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	handler := &listenHandler{file: o.secretFile, known: map[string]bool{}, logger: logger}
	printer := &printer{out: cmd.OutOrStdout(), keys: keys, keyFile: o.keyFile, showSecrets: o.showSecrets, logger: logger}
	handler.receiver = webhook.NewReceiver(webhook.ReceiverConfig{Handle: printer.handle, Answer: printer.answer})
	for _, text := range strings.FieldsFunc(os.Getenv("REKEY_WEBHOOK_SECRET"), isListSeparator) {
		if err := handler.trust(text); err != nil {
			return fmt.Errorf("REKEY_WEBHOOK_SECRET: %w", err)
		}
	}
	if len(handler.known) == 0 && o.secretFile == "" {
		return errors.New("no signing secret; set REKEY_WEBHOOK_SECRET to the rotation_webhook_secret (whsec_...) that creating the key returned, or name a file with --secret-file")
	}
	var config net.ListenConfig
	listener, err := config.Listen(cmd.Context(), "tcp", o.addr)
	if err != nil {
		return fmt.Errorf("listen on %s: %w; --addr sets another address", o.addr, err)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "listening on http://%s\n", listener.Addr())
	group, ctx := errgroup.WithContext(cmd.Context())
	serveHTTP(ctx, group, listener, o.misbehaviour.wrap(handler), logger)
	return group.Wait()
}

func isListSeparator(r rune) bool { return strings.ContainsRune(", \n\r\t", r) }

// readPrivateKeys reads a file with one private key per line; no file is no keys.
func readPrivateKeys(file string) ([]webhook.ReceiverPrivateKey, error) {
	if file == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read private keys: %w", err)
	}
	var keys []webhook.ReceiverPrivateKey
	for _, text := range strings.FieldsFunc(string(raw), isListSeparator) {
		key, err := webhook.ParseReceiverPrivateKey(text)
		if err != nil {
			return nil, fmt.Errorf("read private keys in %s: %w", file, err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("no private key in %s; rekey webhooks keygen makes one", file)
	}
	return keys, nil
}

// newKeygenCommand makes the key pair that secrets are sealed to.
func newKeygenCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make a key pair for sealed secrets",
		Long: `Makes a key pair, so that new secrets are sealed to the public key and only the holder of the private key can read them.

Writes the private key to a new file that only you can read, and prints the public key. Register the public key with the
endpoint (receiver_public_key), and give the file to rekey webhooks listen with --private-key-file.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := webhook.NewReceiverKey(nil)
			if err != nil {
				return err
			}
			if err := writeNew(file, key.Reveal()+"\n"); err != nil {
				return fmt.Errorf("write the private key: %w", err)
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
				PublicKey      string `json:"public_key"`
				KeyID          string `json:"key_id"`
				PrivateKeyFile string `json:"private_key_file"`
			}{key.Public().String(), key.Public().ID(), file})
		},
	}
	cmd.Flags().StringVar(&file, "out", "", "file for the private key; it must not exist yet")
	_ = cmd.MarkFlagRequired("out")
	return cmd
}

// writeNew writes a file that did not exist: the key in an older one may still be needed.
func writeNew(name, text string) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Close())
}
