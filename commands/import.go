package commands

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/webhook"
	"github.com/rekeyhq/rekey/projections"
)

// ImportKeys asks for keys whose secrets another system issued, all in one project and environment.
type ImportKeys struct {
	ProjectID     domain.ProjectID
	EnvironmentID domain.EnvironmentID // empty: the project's first
	DryRun        bool                 // decide, answer, and write nothing
	Keys          []ImportKey
}

// ImportKey is one of them: a secret, and the settings of any new key. Project and environment are the import's.
type ImportKey struct {
	Secret domain.ForeignSecret
	CreateKey
	Fault error // what was wrong with it before it came here, to be told with all else
}

// ImportedKey is what became, or after a dry run what would become, of one of them.
type ImportedKey struct {
	ID            domain.KeyID // empty after a dry run, unless it exists
	Exists        bool         // the project has a key with this secret; nothing was done
	Status        domain.Status
	Name          string
	Prefix        string
	LastFour      string
	WebhookSecret webhook.Secret // of a new key with a webhook
}

// importAttempts bounds how often an import that lost a race is looked at again.
const importAttempts = 3

// ImportKeys makes all keys or none, in one command. A secret that is one of the project's keys already is left as it is,
// so that an import may be repeated. It answers in the order of the request.
func (s *Service) ImportKeys(ctx context.Context, by By, c ImportKeys) ([]ImportedKey, error) {
	if !domain.ValidID(domain.PrefixProject, string(c.ProjectID)) {
		return nil, noProject()
	}
	if n := len(c.Keys); n == 0 || n > domain.MaxImport {
		return nil, domain.InvalidField("keys", fmt.Sprintf("has %d entries", n), fmt.Sprintf("send 1 to %d keys in one request", domain.MaxImport))
	}
	w := s.readImport(by, c)
	for attempt := 1; ; attempt++ {
		out, err := s.tryImport(ctx, by, c, w)
		if domain.CodeOf(err) != domain.CodeVersionConflict || attempt == importAttempts {
			return out, err
		}
	}
}

// wanted is an import as far as the request alone says.
type wanted struct {
	keys      []domain.ImportKey
	endpoints []newEndpoint
}

// readImport reads each entry by itself; what is wrong is kept with it, to be told with all else.
func (s *Service) readImport(by By, c ImportKeys) wanted {
	w := wanted{make([]domain.ImportKey, len(c.Keys)), make([]newEndpoint, len(c.Keys))}
	for i, entry := range c.Keys {
		facts, err := entry.Secret.Facts()
		if err == nil {
			err = entry.Fault
		}
		if err == nil {
			err = entry.checkReceiver()
		}
		if err == nil {
			w.endpoints[i], err = s.newEndpoint(entry.WebhookURL)
		}
		entry.EnvironmentID = c.EnvironmentID
		key := domain.ImportKey{CreateKey: s.newKey(by, entry.CreateKey, w.endpoints[i]), Field: entry.Secret.Field(), Fault: err}
		key.Given = &facts
		w.keys[i] = key
	}
	domain.Repeated(w.keys)
	return w
}

// checkReceiver refuses an endpoint that cannot be one.
func (k ImportKey) checkReceiver() error {
	switch {
	case k.EndpointID == "":
		return nil
	case k.WebhookURL != "":
		return domain.TwoReceivers()
	case !domain.ValidID(domain.PrefixEndpoint, string(k.EndpointID)):
		return noImportEndpoint()
	}
	return nil
}

// noImportEndpoint is the fault of an entry whose endpoint is unknown, of another project, or a key's own.
func noImportEndpoint() error {
	return domain.InvalidField("webhook_endpoint_id", "is no webhook endpoint of this project", "register one first, or leave it out")
}

// endpointsOf lists the endpoints that entries name, each once.
func endpointsOf(c ImportKeys, keys []domain.ImportKey) []string {
	var out []string
	for i, entry := range c.Keys {
		if entry.EndpointID != "" && keys[i].Fault == nil && !slices.Contains(out, string(entry.EndpointID)) {
			out = append(out, string(entry.EndpointID))
		}
	}
	return out
}

// withEndpoints lets the entries see the endpoints that they name, as they are when the decision is made.
func withEndpoints(view eventstore.View, c ImportKeys, project domain.ProjectID, keys []domain.ImportKey) []domain.ImportKey {
	out := slices.Clone(keys)
	for i, entry := range c.Keys {
		if entry.EndpointID == "" || out[i].Fault != nil {
			continue
		}
		endpoint, err := view.Endpoint(entry.EndpointID)
		if err != nil || endpoint.ForKey(project, out[i].LineageID) != nil {
			out[i].Fault = noImportEndpoint()
			continue
		}
		out[i].Endpoint = endpoint
	}
	return out
}

// tryImport looks the secrets up and decides. Between the two somebody else may import one of them: then the store refuses
// the whole, for a digest is there once.
func (s *Service) tryImport(ctx context.Context, by By, c ImportKeys, w wanted) ([]ImportedKey, error) {
	keys := slices.Clone(w.keys)
	found, err := s.findImported(ctx, c.ProjectID, keys)
	if err != nil {
		return nil, err
	}
	var decided []domain.Decided
	_, err = s.cfg.Store.Execute(ctx, eventstore.Command{
		Reads: append([]string{string(c.ProjectID)}, endpointsOf(c, keys)...), Actor: by.actor(), RequestID: by.RequestID,
		Decide: func(view eventstore.View, now time.Time) ([]domain.Decided, error) {
			project, err := projectOf(view, by.Caller, c.ProjectID)
			if err != nil {
				return nil, err
			}
			decided, err = project.ImportKeysIn(withEndpoints(view, c, c.ProjectID, keys), s.cfg.Limits, now)
			if c.DryRun {
				return nil, err
			}
			return decided, err
		},
		Attach: keeping(s, by, w.attach, func([]domain.Event) ([]ImportedKey, error) { return s.imported(c, w, found, decided), nil }),
	})
	if err != nil {
		return nil, err
	}
	return s.imported(c, w, found, decided), nil
}

// findImported marks the secrets that are keys already: those of this project as such; any other is a fault that does not
// say whose it is.
func (s *Service) findImported(ctx context.Context, project domain.ProjectID, keys []domain.ImportKey) (map[domain.Digest]*projections.Key, error) {
	var digests []domain.Digest
	for _, k := range keys {
		if k.Fault == nil {
			digests = append(digests, k.Given.Digest)
		}
	}
	found, err := s.cfg.Reader.KeysByDigest(ctx, digests)
	if err != nil {
		return nil, err
	}
	for i := range keys {
		existing, ok := found[keys[i].Given.Digest]
		switch {
		case !ok || keys[i].Fault != nil:
		case existing.ProjectID == project:
			keys[i].Exists = true
		default:
			keys[i].Fault = domain.CannotBeImported(keys[i].Field)
		}
	}
	return found, nil
}

// imported is the answer: the existing keys as they are, the others as they were decided.
func (s *Service) imported(c ImportKeys, w wanted, found map[domain.Digest]*projections.Key, decided []domain.Decided) []ImportedKey {
	created := make(map[domain.KeyID]domain.Created, len(decided))
	for _, d := range decided {
		if made, ok := d.Data.(domain.Created); ok {
			created[made.KeyID] = made
		}
	}
	out := make([]ImportedKey, len(w.keys))
	for i, k := range w.keys {
		if existing, ok := found[k.Given.Digest]; ok {
			out[i] = ImportedKey{
				ID: existing.ID, Exists: true, Status: existing.StatusAt(s.cfg.Now()), Name: existing.Name,
				Prefix: existing.Secret.Prefix, LastFour: existing.Secret.LastFour,
			}
			continue
		}
		made := created[k.KeyID]
		out[i] = ImportedKey{Name: made.Name, Prefix: made.Prefix, LastFour: made.LastFour}
		if !c.DryRun {
			out[i].ID, out[i].Status, out[i].WebhookSecret = made.KeyID, domain.StatusActive, w.endpoints[i].secret
		}
	}
	return out
}

// attach stores the sealed signing secrets of the endpoints that the command did make.
func (w wanted) attach(batch *pgx.Batch, events []domain.Event) error {
	sealed := make(map[string]newEndpoint, len(w.endpoints))
	for _, endpoint := range w.endpoints {
		sealed[string(endpoint.id)] = endpoint
	}
	for _, e := range events {
		if endpoint, ok := sealed[e.StreamID]; ok {
			if err := endpoint.attach(batch, []domain.Event{e}); err != nil {
				return err
			}
		}
	}
	return nil
}
