package embedded

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// authorizeTimeout bounds the judgement of one token.
const authorizeTimeout = 2 * time.Second

// Authorize judges a token; ok=false refuses the connection. It is called with a timeout, from many goroutines.
type Authorize func(ctx context.Context, token string) (grant Grant, ok bool)

// Grant says what the holder of a token may read.
type Grant struct {
	// Operator may read what all organizations have.
	Operator bool
	// Organization is the only one whose events anybody else may read.
	Organization string
}

// Streams that subscribers may read, with the first two tokens of their subjects.
var readable = map[string]string{
	"REKEY_EVENTS":   "rekey.events",
	"REKEY_WEBHOOKS": "rekey.webhooks",
}

// organizationToken is what may stand in a subject. Anything else, a wildcard above all, would widen the rights.
var organizationToken = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// natsAuth judges each connection to the server. The token comes as a token or, for clients that know no tokens, as the
// password of any user.
type natsAuth struct {
	service   [sha256.Size]byte // digest of the service token: comparing digests tells nothing of the token's length
	authorize atomic.Pointer[Authorize]
	log       *slog.Logger
}

var _ server.Authentication = (*natsAuth)(nil)

func newNATSAuth(serviceToken string, log *slog.Logger) *natsAuth {
	return &natsAuth{service: sha256.Sum256([]byte(serviceToken)), log: log}
}

// Check is called by the server for each connection, also for those inside the process.
func (a *natsAuth) Check(c server.ClientAuthentication) bool {
	if c.Kind() != server.CLIENT {
		return false // no routes, gateways or leaf nodes
	}
	opts := c.GetOpts()
	token := opts.Token
	if token == "" {
		token = opts.Password
	}
	// The server's log names the user of a refused connection, and some put their key there.
	opts.Username = ""
	digest := sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(digest[:], a.service[:]) == 1 {
		c.RegisterUser(&server.User{Username: "rekey"})
		return true
	}
	grant, ok := a.judge(token)
	if !ok {
		return false
	}
	permissions, ok := permissionsOf(grant)
	if !ok {
		a.log.Error("nats grant is unusable", "organization", grant.Organization)
		return false
	}
	user := grant.Organization
	if grant.Operator {
		user = "operator"
	}
	c.RegisterUser(&server.User{Username: user, Permissions: permissions})
	return true
}

func (a *natsAuth) judge(token string) (Grant, bool) {
	authorize := *a.authorize.Load()
	if authorize == nil || token == "" {
		return Grant{}, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), authorizeTimeout)
	defer cancel()
	return authorize(ctx, token)
}

// permissionsOf turns a grant into subjects.
//
// They prevent: publishing into the streams, listening to another organization's subjects, making a consumer whose filter
// leaves the organization (the filter is part of the subject of the request, and the server compares it with the body),
// reading messages by sequence, and changing a stream.
//
// They do not prevent what passes over subjects that all subscribers share. Who knows the name of another organization's
// consumer may fetch from it, replace or delete it; who listens to _INBOX.> sees what others are sent there; the state of a
// stream, with the subjects in it, is one for all. A subscriber also names the subject on which the server answers and
// delivers to it, and the server itself may publish anywhere: deliveries can so reach another's subscription (a stream does
// not take them), and the answer of an API request can be put into a stream. It has no header of the relay's, which finds
// it there and stops.
func permissionsOf(g Grant) (*server.Permissions, bool) {
	if !g.Operator && !organizationToken.MatchString(g.Organization) {
		return nil, false
	}
	subscribe := []string{"_INBOX.>"}
	publish := []string{"$JS.API.INFO", "$JS.ACK.>", "$JS.FC.>"}
	if g.Operator {
		subscribe = append(subscribe, "rekey.>")
	}
	for stream, prefix := range readable {
		publish = append(publish,
			"$JS.API.STREAM.INFO."+stream,
			"$JS.API.CONSUMER.INFO."+stream+".*",
			"$JS.API.CONSUMER.MSG.NEXT."+stream+".*",
			"$JS.API.CONSUMER.DELETE."+stream+".*")
		if g.Operator {
			publish = append(publish,
				"$JS.API.CONSUMER.CREATE."+stream,
				"$JS.API.CONSUMER.CREATE."+stream+".>",
				"$JS.API.CONSUMER.DURABLE.CREATE."+stream+".*")
			continue
		}
		own := prefix + "." + g.Organization + ".>"
		subscribe = append(subscribe, own)
		publish = append(publish, "$JS.API.CONSUMER.CREATE."+stream+".*."+own)
	}
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: publish},
		Subscribe: &server.SubjectPermission{Allow: subscribe},
	}, true
}
