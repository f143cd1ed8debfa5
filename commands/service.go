package commands

import (
	"fmt"
	"io"
	"time"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
	"github.com/rekeyhq/rekey/internal/seal"
	"github.com/rekeyhq/rekey/projections"
)

// Config says what the commands work with. All fields without "nil means" are required.
type Config struct {
	Store  *eventstore.Store
	Reader *projections.Reader
	Sealer *seal.Sealer
	Limits domain.Limits
	// Barrier waits until what was done holds at every verifier; nil means that there are none.
	Barrier Barrier
	// CheckURL says what is wrong with the address of a webhook receiver.
	CheckURL func(url string) error
	// Sender reaches receivers that their owners have asked; the deliveries of keys' secrets are the workers'.
	Sender Sender
	// PublicURL is where receivers reach this API to fetch secrets, without a slash at its end; only the mode claim needs it.
	PublicURL string
	// Random is the source of secrets; nil means crypto/rand.
	Random io.Reader
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Service carries out commands.
type Service struct {
	cfg      Config
	ids      domain.IDs
	firstUse chan struct{} // how many first uses may be acknowledged at once
	probes   chan struct{} // how many receivers may be asked at once
	epochs   epochs
}

// New returns a Service.
func New(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{cfg: cfg, ids: domain.IDs{Random: cfg.Random}, firstUse: make(chan struct{}, 32), probes: make(chan struct{}, maxProbes)}
}

// By says who asks for a command, and for which request.
type By struct {
	Caller    domain.Caller
	Actor     domain.Actor // only for rekey's own work; else it is the caller's key
	RequestID string
	// Expected, if not nil, is the version that the caller has seen of what it changes: a lineage, a project or an organization.
	Expected *int64
	// Answer, if not nil, is kept with what the command does.
	Answer *Answer
}

func (b By) actor() domain.Actor {
	if b.Actor != "" {
		return b.Actor
	}
	return domain.Actor(b.Caller.KeyID)
}

// reaches is the second wall behind the lookup that led to the lineage: whatever let the id through, a lineage of another
// organization, or of a project out of the caller's reach, is not found. Rekey's own work reaches all.
func (b By) reaches(l *domain.Lineage) bool {
	return b.own() || b.mayUse(l.OrganizationID, l.ProjectID)
}

// own reports whether this is rekey's own work.
func (b By) own() bool { return b.Actor != "" && b.Caller.OrganizationID == "" }

// mayUse reports whether something of an organization's project is in the caller's reach.
func (b By) mayUse(organization domain.OrganizationID, project domain.ProjectID) bool {
	return organization == b.Caller.OrganizationID && b.Caller.MayUseProject(project)
}

// reach is how far the reads go that lead to a command.
func (b By) reach() projections.Reach { return projections.ReachOf(b.Caller) }

// System is By for work that rekey does by itself.
func System(actor domain.Actor) By { return By{Caller: domain.System(), Actor: actor} }

// mint makes a secret and remembers it for the answer. A decision may run again; the last secret is the one that counts.
func (s *Service) mint(into *domain.Secret) func(brand, environment string) (domain.Secret, error) {
	return func(brand, environment string) (domain.Secret, error) {
		secret, err := domain.MintSecret(s.cfg.Random, brand, environment)
		*into = secret
		return secret, err
	}
}

// newID makes an id of a kind.
func newID[T ~string](s *Service, prefix string) T { return T(s.ids.New(prefix, s.cfg.Now())) }

// Contexts that sealed values are bound to.
func endpointContext(id domain.EndpointID) string { return "endpoint " + string(id) }
func rotationContext(id domain.RotationID) string { return "rotation " + string(id) }

// find returns a payload of a type among events.
func find[P domain.Payload](events []domain.Event) (P, domain.Event, error) {
	for _, e := range events {
		if p, ok := e.Data.(P); ok {
			return p, e, nil
		}
	}
	var none P
	return none, domain.Event{}, fmt.Errorf("a command made no %s event", none.Type())
}
