package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func cliImport(t *testing.T, r *instance) {
	project := r.project(t)
	secret := func(n int) string { return fmt.Sprintf("sk_other_%032d", n) }
	keys := []map[string]any{{"name": "by hash", "sha256": hexDigest(secret(0)), "scopes": []string{"read"}}}
	for i := range 1500 { // more than one request takes
		keys = append(keys, map[string]any{"name": "by secret", "key": secret(i + 1), "metadata": map[string]string{"note": strings.Repeat("n", 800)}})
	}
	file := writeJSON(t, keys)
	var answer importAnswer
	commandJSON(t, &answer, "", "keys", "import", "--file", file, "--project", project, "--dry-run")
	if !answer.DryRun || answer.Created != 1501 || len(answer.Keys) != 1501 {
		t.Fatalf("the dry run printed %d of %d", answer.Created, len(answer.Keys))
	}
	cliVerify(t, secret(1), "NOT_FOUND")
	commandJSON(t, &answer, "", "keys", "import", "--file", file, "--project", project)
	if answer.DryRun || answer.Created != 1501 || answer.Keys[1500]["index"] != 1500.0 || answer.Keys[1500]["id"] == nil {
		t.Fatalf("printed %d, last %v", answer.Created, answer.Keys[1500])
	}
	cliVerify(t, secret(0), "VALID", "--scopes", "read")
	cliVerify(t, secret(1500), "VALID")

	// Again from standard input, as the body of a request: what is there stays.
	raw, err := json.Marshal(map[string]any{"keys": keys[:3]})
	if err != nil {
		t.Fatal(err)
	}
	commandJSON(t, &answer, string(raw), "keys", "import", "--file", "-", "--project", project)
	if answer.Created != 0 || answer.Existing != 3 {
		t.Errorf("again printed %+v", answer)
	}

	// The second part fails: what the first one did is printed, and the error says where it stopped.
	more := append([]map[string]any{}, keys[:1000]...)
	more = append(more, map[string]any{"name": "weak", "key": "password"})
	out, err := command(t, "", "keys", "import", "--file", writeJSON(t, more), "--project", project)
	if err == nil || !strings.Contains(err.Error(), "of the file") || !strings.Contains(err.Error(), ".key is too short") || strings.Contains(err.Error(), "password") {
		t.Errorf("a weak one: %v", err)
	}
	if json.Unmarshal([]byte(out), &answer) != nil || answer.Existing != len(answer.Keys) || len(answer.Keys) == 0 {
		t.Errorf("before it, it printed %.200s", out)
	}
	for what, text := range map[string]string{"nothing": "", "no list": `"rk_live_x"`, "broken": `[{"key":"rk_live_secret`, "an empty list": "[]"} {
		if _, err := command(t, text, "keys", "import", "--file", "-", "--project", project); err == nil || !strings.Contains(err.Error(), "holds no keys") || strings.Contains(err.Error(), "rk_live") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := command(t, "", "keys", "import", "--file", filepath.Join(t.TempDir(), "none"), "--project", project); err == nil {
		t.Error("a file that is not there was imported")
	}
}

func hexDigest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func writeJSON(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
