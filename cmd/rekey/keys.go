package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
)

// newKeysCommand is the API's keys on the command line.
func newKeysCommand() *cobra.Command {
	keys := &cobra.Command{Use: "keys", Short: "Create, list, rotate, revoke and verify keys (REKEY_URL, REKEY_KEY)"}
	keys.AddCommand(newKeysListCommand(), newKeysCreateCommand(), newKeysRotateCommand(), newKeysRevokeCommand(), newKeysVerifyCommand(), newKeysImportCommand(),
		callCommand("get <key-id>", "Show a key", "GET", ""), callCommand("events <key-id>", "Show the history of a key", "GET", "/events"))
	return keys
}

// callCommand is a command that is one call on one key.
func callCommand(use, short, method, suffix string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return callAndPrint(cmd, method, "/v1/api-keys/"+url.PathEscape(args[0])+suffix, nil)
		},
	}
}

func callAndPrint(cmd *cobra.Command, method, path string, body any) error {
	c, err := newClient()
	if err != nil {
		return err
	}
	raw, err := c.call(cmd.Context(), method, path, body)
	if err != nil {
		return err
	}
	return printJSON(cmd.OutOrStdout(), raw)
}

func newKeysListCommand() *cobra.Command {
	var project string
	var all bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the keys of a project, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{"project_id": {project}}
			if all {
				query.Set("include_revoked", "true")
			}
			return callAndPrint(cmd, "GET", "/v1/api-keys?"+query.Encode(), nil)
		},
	}
	cmd.Flags().StringVar(&project, "project", "", "id of the project")
	cmd.Flags().BoolVar(&all, "all", false, "also revoked, expired and retired keys")
	_ = cmd.MarkFlagRequired("project")
	return cmd
}

func newKeysCreateCommand() *cobra.Command {
	var (
		project, name, expires, webhook string
		scopes                          []string
		interval, grace                 int64
	)
	cmd := &cobra.Command{
		Use: "create", Short: "Create a key; its secret is shown once", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			body := map[string]any{"project_id": project, "name": name}
			set := func(flag, field string, value any) {
				if cmd.Flags().Changed(flag) {
					body[field] = value
				}
			}
			set("scopes", "scopes", scopes)
			set("expires-at", "expires_at", expires)
			set("rotation-interval", "rotation_interval_seconds", interval)
			set("grace", "grace_period_seconds", grace)
			set("webhook", "rotation_webhook_url", webhook)
			return callAndPrint(cmd, "POST", "/v1/api-keys", body)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&project, "project", "", "id of the project")
	flags.StringVar(&name, "name", "", "name of the key")
	flags.StringSliceVar(&scopes, "scopes", nil, "what the key may do; default: all that your key may")
	flags.StringVar(&expires, "expires-at", "", "when the key ends, in RFC 3339")
	flags.Int64Var(&interval, "rotation-interval", 0, "rotate it by itself, every so many seconds")
	flags.Int64Var(&grace, "grace", 0, "how many seconds the old key stays valid after such a rotation")
	flags.StringVar(&webhook, "webhook", "", "URL that gets the new secret, signed")
	_ = cmd.MarkFlagRequired("project")
	_ = cmd.MarkFlagRequired("name")
	return cmd
}

func newKeysRotateCommand() *cobra.Command {
	var grace int64
	var supersede bool
	cmd := &cobra.Command{
		Use: "rotate <key-id>", Short: "Make the next generation of a key; its secret is shown once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			body := map[string]any{"supersede": supersede}
			if cmd.Flags().Changed("grace") {
				body["grace_period_seconds"] = grace
			}
			return callAndPrint(cmd, "POST", "/v1/api-keys/"+url.PathEscape(args[0])+"/rotate", body)
		},
	}
	cmd.Flags().Int64Var(&grace, "grace", 0, "how many seconds the old key stays valid; 0 ends it now (default an hour)")
	cmd.Flags().BoolVar(&supersede, "supersede", false, "replace a rotation that waits for its receiver")
	return cmd
}

func newKeysRevokeCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "revoke <key-id>", Short: "End a key at once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return callAndPrint(cmd, "DELETE", "/v1/api-keys/"+url.PathEscape(args[0])+"?"+url.Values{"reason": {reason}}.Encode(), nil)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the history")
	return cmd
}

// newKeysVerifyCommand reads the secret from standard input: an argument would show in the process list and the shell's
// history.
func newKeysVerifyCommand() *cobra.Command {
	var scopes []string
	cmd := &cobra.Command{
		Use: "verify", Short: "Verify a secret that is read from standard input", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
			if err != nil && !errors.Is(err, io.EOF) { // a last line needs no end
				return fmt.Errorf("read standard input: %w", err)
			}
			secret := strings.TrimSpace(line)
			if secret == "" {
				return errors.New("no secret on standard input; use: echo \"$SECRET\" | rekey keys verify")
			}
			return callAndPrint(cmd, "POST", "/v1/api-keys/verify", map[string]any{"key": secret, "scopes": scopes})
		},
	}
	cmd.Flags().StringSliceVar(&scopes, "scopes", []string{}, "scopes that the key must hold")
	return cmd
}
