package main

import (
	"fmt"
	"os"

	"github.com/rekeyhq/rekey/internal/github"
)

// readGitHubKeys reads GitHub's public keys from the file that REKEY_GITHUB_SECRET_SCANNING_KEYS names. They are a file, and
// are not fetched: a server that asks GitHub on a stranger's request can be made to ask all day.
func (c *Config) readGitHubKeys(path string) error {
	if path == "" {
		return nil
	}
	document, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("REKEY_GITHUB_SECRET_SCANNING_KEYS: %w", err)
	}
	keys, err := github.ParseKeys(document)
	if err != nil {
		return fmt.Errorf("REKEY_GITHUB_SECRET_SCANNING_KEYS: %s: %w; save what https://api.github.com/meta/public_keys/secret_scanning answers", path, err)
	}
	c.GitHub = keys.Check
	return nil
}
