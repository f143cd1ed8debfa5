package commands

import (
	"context"
	"slices"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/projections"
)

// MaxLeaks bounds the leaks of one report.
const MaxLeaks = 1000

// leaksAtOnce is how many commands of one report wait at the same time: less than a full batch, so that a large report does
// not keep the commands of others waiting for long.
const leaksAtOnce = 200

// Leak is a secret that somebody found, or holds and wants dead.
type Leak struct {
	Secret string // as it was found: it may be anything
	Source string // who found it and in what, as one short name
	URL    string // where; may be empty
}

// LeakOutcome is what a report came to.
type LeakOutcome struct {
	// Known says that the secret is that of a key of ours, also of one that had ended before.
	Known bool
	KeyID domain.KeyID
}

// ReportLeaks acts on leaked secrets, as the policies of their projects say, and returns the outcome of each. Having the
// secret is the right to report it. When it returns no error all is done: what a project wants revoked is revoked. On an
// error some may be done and some not; the same report can be made again, and does nothing twice.
func (s *Service) ReportLeaks(ctx context.Context, requestID string, leaks []Leak) ([]LeakOutcome, error) {
	if len(leaks) > MaxLeaks {
		return nil, domain.Refuse(domain.CodeTooLarge, "at most %d leaks can be reported at once", MaxLeaks)
	}
	secrets, digests := plausibleSecrets(leaks)
	keys, err := s.cfg.Reader.KeysByDigest(ctx, digests)
	if err != nil {
		return nil, err
	}
	by := System(domain.ActorLeak)
	by.RequestID = requestID
	outcomes := make([]LeakOutcome, len(leaks))
	var all []eventstore.Command
	done := map[domain.ReportLeak]bool{}
	var ended time.Time // when the last of those did that had ended before
	for i, leak := range leaks {
		if secrets[i].IsZero() {
			continue
		}
		key := keys[secrets[i].Digest()]
		if key == nil {
			continue
		}
		outcomes[i] = LeakOutcome{Known: true, KeyID: key.ID}
		report := domain.ReportLeak{KeyID: key.ID, Source: leak.Source, URL: domain.LeakURL(leak.URL, secrets[i])}
		switch {
		case !key.State.Live(): // it stays so
			if key.RevokedAt != nil && key.RevokedAt.After(ended) {
				ended = *key.RevokedAt
			}
		case !done[report]:
			done[report] = true
			all = append(all, leakCommand(by, key, report))
		}
	}
	for some := range slices.Chunk(all, leaksAtOnce) {
		for _, outcome := range s.executeAll(ctx, by, some) {
			if outcome.Err != nil {
				return nil, domain.Refuse(domain.CodeUnavailable, "not every leak could be acted on; report them again").WithCause(outcome.Err)
			}
		}
	}
	if err := s.holds(ctx, ended); err != nil { // whoever ended it may be waiting for that still
		return nil, err
	}
	return outcomes, nil
}

// plausibleSecrets returns what of the leaks can be a key at all, in their places, and the digests to look up. What cannot
// be one costs no lookup.
func plausibleSecrets(leaks []Leak) (secrets []domain.Secret, digests []domain.Digest) {
	secrets = make([]domain.Secret, len(leaks))
	seen := make(map[domain.Digest]bool, len(leaks))
	for i, leak := range leaks {
		secret, ok := domain.ParseSecret(leak.Secret)
		if !ok {
			continue
		}
		secrets[i] = secret
		if d := secret.Digest(); !seen[d] {
			seen[d] = true
			digests = append(digests, d)
		}
	}
	return secrets, digests
}

// leakCommand acts on one leak. It reads the project, so that a policy that is being changed is either the old or the new.
func leakCommand(by By, key *projections.Key, report domain.ReportLeak) eventstore.Command {
	command := lineageCommand(by, key.LineageID, nil, nil)
	command.Reads = []string{string(key.ProjectID)}
	command.Decide = func(view eventstore.View, now time.Time) ([]domain.Decided, error) {
		l, err := view.Lineage(key.LineageID)
		if err != nil {
			return nil, err
		}
		report := report
		report.Action = domain.LeakRevoke // also where the project is gone: nobody is left who only wanted to be told
		if project, err := view.Project(key.ProjectID); err == nil {
			report.Action = project.Policy.LeakAction()
		}
		return l.ReportLeak(report, now)
	}
	return command
}
