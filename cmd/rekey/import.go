package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// What the API takes in one request; a larger file is sent in parts.
const (
	importPartKeys  = 1000
	importPartBytes = 3 << 19
)

// newKeysImportCommand imports keys of another system from a file, because arguments would show in the process list.
func newKeysImportCommand() *cobra.Command {
	var file, project, environment string
	var dryRun bool
	cmd := &cobra.Command{
		Use: "import", Short: "Import keys of another system, by secret or by SHA-256", Args: cobra.NoArgs,
		Long: "Import keys of another system from a JSON file: a list of objects with a name and a key (the secret) or a sha256,\n" +
			"and the settings of any new key. What was imported before is left as it is, so an import may be repeated.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := readImportFile(cmd.InOrStdin(), file)
			if err != nil {
				return err
			}
			c, err := newClient()
			if err != nil {
				return err
			}
			request := map[string]any{"project_id": project, "dry_run": dryRun}
			if environment != "" {
				request["environment_id"] = environment
			}
			answer, failed := c.importKeys(cmd.Context(), request, keys)
			if answer == nil {
				return failed
			}
			raw, err := json.Marshal(answer)
			if err != nil {
				return errors.Join(failed, err)
			}
			return errors.Join(failed, printJSON(cmd.OutOrStdout(), raw))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&file, "file", "", "the file; - is standard input")
	flags.StringVar(&project, "project", "", "id of the project")
	flags.StringVar(&environment, "environment", "", "id of the environment; default: the project's first")
	flags.BoolVar(&dryRun, "dry-run", false, "say what would be imported, and import nothing")
	_ = cmd.MarkFlagRequired("file")
	_ = cmd.MarkFlagRequired("project")
	return cmd
}

// readImportFile reads a list of keys, or an object whose field keys is one, as the API takes it.
func readImportFile(stdin io.Reader, file string) ([]json.RawMessage, error) {
	var raw []byte
	var err error
	if file == "-" {
		raw, err = io.ReadAll(stdin)
	} else {
		raw, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("read the keys: %w", err)
	}
	var body struct{ Keys []json.RawMessage }
	if raw = bytes.TrimSpace(raw); bytes.HasPrefix(raw, []byte("[")) {
		err = json.Unmarshal(raw, &body.Keys)
	} else {
		err = json.Unmarshal(raw, &body)
	}
	if err != nil || len(body.Keys) == 0 { // the decoder's own error could show a part of a secret
		return nil, errors.New(`the file holds no keys; write a list such as [{"name":"billing","key":"..."},{"name":"ci","sha256":"..."}]`)
	}
	return body.Keys, nil
}

// importAnswer is the answer of the API, or of several requests together.
type importAnswer struct {
	DryRun   bool             `json:"dry_run"`
	Created  int              `json:"created"`
	Existing int              `json:"existing"`
	Keys     []map[string]any `json:"keys"`
}

// importKeys sends the keys in parts. If one fails it returns what was answered for those before it, because secrets of
// webhooks are shown only once.
func (c *client) importKeys(ctx context.Context, request map[string]any, keys []json.RawMessage) (*importAnswer, error) {
	var all *importAnswer
	for first := 0; first < len(keys); {
		part := importPart(keys[first:])
		request["keys"] = part
		raw, err := c.call(ctx, "POST", "/v1/api-keys/import", request)
		if err != nil {
			if len(part) < len(keys) {
				err = fmt.Errorf("entries %d to %d of the file, where keys[0] is the first of them: %w", first+1, first+len(part), err)
			}
			return all, err
		}
		var answer importAnswer
		if err := json.Unmarshal(raw, &answer); err != nil {
			return all, fmt.Errorf("read the answer: %w", err)
		}
		for i := range answer.Keys {
			answer.Keys[i]["index"] = first + i
		}
		if all == nil {
			all = &importAnswer{DryRun: answer.DryRun}
		}
		all.Created, all.Existing, all.Keys = all.Created+answer.Created, all.Existing+answer.Existing, append(all.Keys, answer.Keys...)
		first += len(part)
	}
	return all, nil
}

// importPart is as many of the keys as fit one request, at least one.
func importPart(keys []json.RawMessage) []json.RawMessage {
	n, size := 1, len(keys[0])
	for n < len(keys) && n < importPartKeys && size+len(keys[n]) <= importPartBytes {
		size += len(keys[n]) + 1
		n++
	}
	return keys[:n]
}
