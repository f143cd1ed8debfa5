package commands_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

// G5: a plaintext secret is in the answer to its owner, and nowhere in the database, the log or an error, in whichever
// spelling. Every kind of secret goes through here: first keys, keys, rotated ones, ones that wait, claimed ones, and
// the signing secrets of receivers.
func TestG5SecretsAreNowhere(t *testing.T) {
	t.Parallel()
	w := setup(t)
	var logged bytes.Buffer
	r := w.another(t, func(c *eventstore.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	seen := map[string]string{}
	given, _ := domain.ParseSecret("rk_live_a-root-key-that-was-given-to-us")
	tenant, err := r.Setup(t.Context(), given)
	if err != nil {
		t.Fatal(err)
	}
	by, project := commands.By{Caller: tenant.Key.Caller()}, tenant.Key.ProjectID
	seen["root key"] = given.Reveal()
	organization, err := r.CreateOrganization(t.Context(), by, "acme")
	if err != nil {
		t.Fatal(err)
	}
	seen["first key"] = organization.Secret.Reveal()

	create := func(hook string) commands.CreatedKey {
		t.Helper()
		created, err := r.CreateKey(t.Context(), by, commands.CreateKey{ProjectID: project, Name: "ci", RotationIntervalSeconds: 60, WebhookURL: hook})
		if err != nil {
			t.Fatal(err)
		}
		seen["key "+string(created.Key.ID)] = created.Secret.Reveal()
		if !created.WebhookSecret.IsZero() {
			seen["signing secret of "+string(created.Key.ID)] = created.WebhookSecret.Reveal()
		}
		return created
	}
	waiting, stalled, claimable, rotated := create("https://a.example.com/"), create("https://a.example.com/"), create(""), create("")
	_, moved, err := r.UpdateKey(t.Context(), by, domain.UpdateKey{KeyID: waiting.Key.ID, WebhookURL: domain.ChangeTo("https://b.example.com/")})
	if err != nil {
		t.Fatal(err)
	}
	seen["signing secret of the second receiver"] = moved.Reveal()
	answer, err := r.RotateKey(t.Context(), by, commands.RotateKey{KeyID: rotated.Key.ID, Grace: new(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	seen["rotated key"] = answer.Secret.Reveal()
	for _, created := range []commands.CreatedKey{waiting, stalled, claimable} {
		secret, err := r.OpenPending(t.Context(), w.rotateDue(t, created.Key))
		if err != nil {
			t.Fatal(err)
		}
		seen["pending key of "+string(created.Key.ID)] = secret.Reveal()
	}
	rotation, _, err := r.reader.WaitingRotation(t.Context(), projections.ReachOf(by.Caller), stalled.Key.LineageID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Stall(t.Context(), by, stalled.Key.LineageID, rotation, "gone", nil); err != nil {
		t.Fatal(err)
	}
	claimed, err := r.ClaimSuccessor(t.Context(), by, w.key(t, by, claimable.Key.ID))
	if err != nil {
		t.Fatal(err)
	}
	seen["claimed key"] = claimed.Secret.Reveal()
	// Errors of all sorts, and what a careless line in a log would print.
	printed := []any{given, tenant, organization, waiting, answer, claimed, moved, by}
	for _, id := range []domain.KeyID{rotated.Key.ID, "key_x"} {
		_, err := r.RotateKey(t.Context(), by, commands.RotateKey{KeyID: id, Grace: new(time.Hour)})
		printed = append(printed, err)
	}
	_, err = r.Setup(t.Context(), given) // the same root key twice cannot be
	wantCode(t, "the same root key again", err, domain.CodeVersionConflict)
	printed = append(printed, err)

	places := w.dump(t)
	places["log"] = logged.Bytes()
	places["printed"] = fmt.Appendf(nil, "%v %+v %#v %s %q", printed, printed, printed, printed, printed)
	if len(seen) != 14 {
		t.Fatalf("%d secrets were seen", len(seen))
	}
	for what, secret := range seen {
		for spelling, needle := range spellings(secret) {
			for place, content := range places {
				if bytes.Contains(content, needle) {
					t.Errorf("the %s stands in %s, %s", what, place, spelling)
				}
			}
		}
	}

	// The search finds what is there.
	prefix := []byte(waiting.Key.Secret.Prefix)
	if !bytes.Contains(places["public.keys.key_prefix"], prefix) || !bytes.Contains(places["public.events_lifecycle_000000.data"], prefix) {
		t.Error("the search does not even find the prefix of a key")
	}
	w.exec(t, "UPDATE pending_secrets SET sealed = $1", []byte("before "+claimed.Secret.Reveal()+" after"))
	w.exec(t, "UPDATE due_work SET last_error = $1", base64.RawURLEncoding.EncodeToString([]byte("xy"+claimed.Secret.Reveal())))
	found := map[string]bool{}
	for spelling, needle := range spellings(claimed.Secret.Reveal()) {
		for place, content := range w.dump(t) {
			if bytes.Contains(content, needle) {
				found[place+" "+strings.Fields(spelling)[0]] = true
			}
		}
	}
	if !found["public.pending_secrets.sealed plain"] || !found["public.due_work.last_error base64"] {
		t.Errorf("a planted secret was found in %v only", found)
	}
}

// spellings are the forms in which a secret could stand somewhere.
func spellings(secret string) map[string][]byte {
	out := map[string][]byte{"plain": []byte(secret)}
	texts := [][]byte{[]byte(secret)}
	encoded, shared := strings.CutPrefix(secret, "whsec_")
	if !shared {
		encoded, shared = strings.CutPrefix(secret, "whsk_")
	}
	if shared {
		raw, _ := base64.StdEncoding.DecodeString(encoded)
		texts = append(texts, raw)
		out["plain, without its prefix"], out["plain, decoded"] = []byte(encoded), raw
	}
	for i, text := range texts {
		out[fmt.Sprint("hex ", i)] = []byte(hex.EncodeToString(text))
		out[fmt.Sprint("upper-case hex ", i)] = bytes.ToUpper([]byte(hex.EncodeToString(text)))
		for shift := range 3 { // inside a longer text that is encoded as a whole, it begins at one of three places
			for name, encoding := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64 for URLs": base64.RawURLEncoding} {
				inner := encoding.EncodeToString(append(make([]byte, shift), text...))
				inner = inner[(shift*8+5)/6 : len(inner)-2] // what does not depend on its neighbours
				out[fmt.Sprint(name, " ", i, " ", shift)] = []byte(inner)
			}
		}
	}
	return out
}

// dump returns the content of every column of every table of ours and of River's, whatever its type.
func (w *world) dump(t *testing.T) map[string][]byte {
	t.Helper()
	rows, err := w.owner.Query(t.Context(), `SELECT c.table_schema, c.table_name, c.column_name, c.data_type = 'bytea'
		FROM information_schema.columns c JOIN pg_class r ON r.relname = c.table_name AND r.relnamespace = c.table_schema::regnamespace
		WHERE c.table_schema IN ('public', 'river') AND r.relkind IN ('r', 'm')`)
	if err != nil {
		t.Fatal(err)
	}
	type column struct {
		schema, table, name string
		binary              bool
	}
	columns, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c column, err error) {
		return c, row.Scan(&c.schema, &c.table, &c.name, &c.binary)
	})
	if err != nil || len(columns) < 100 {
		t.Fatalf("%d columns, %v", len(columns), err)
	}
	out := map[string][]byte{}
	for _, c := range columns {
		value := pgx.Identifier{c.name}.Sanitize()
		if c.binary {
			value = fmt.Sprintf("string_agg(%s, '\\x0a')", value)
		} else {
			value = fmt.Sprintf("convert_to(string_agg(%s::text, E'\\n'), 'UTF8')", value)
		}
		out[c.schema+"."+c.table+"."+c.name] = one[[]byte](t, w, fmt.Sprintf("SELECT %s FROM %s", value, pgx.Identifier{c.schema, c.table}.Sanitize()))
	}
	return out
}
