package surface

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/clientip"
	"github.com/rekeyhq/rekey/projections"
	"github.com/rekeyhq/rekey/projections/verifier"
)

// Verifier judges secrets; a verifier.Verifier is one.
type Verifier interface {
	Verify(ctx context.Context, request *projections.VerifyRequest) (verifier.Answer, error)
	Authenticate(ctx context.Context, secret string) (*verifier.Record, error)
}

// Config says what the surfaces work with. All fields without "nil means" are required.
type Config struct {
	Commands *commands.Service
	Reader   *projections.Reader
	Verifier Verifier
	// Tail waits until the log may have moved past a position and returns its head, for streams of events.
	Tail func(ctx context.Context, after int64) (head int64, err error)
	// Ready names what keeps this replica from serving; nil means nothing can.
	Ready   func(ctx context.Context) error
	Logger  *slog.Logger
	Version string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Counter, if not nil, makes what is told of every request to a route that was answered so.
	Counter func(route string, status int) func(took time.Duration)
	// Usage, if not nil, is told of every use of a key, here and by verify, with the address it was used from and what the
	// client says it is.
	Usage func(key *verifier.Record, from netip.Addr, agent string, at time.Time)
	// Denied, if not nil, is told of every verify that found a key and did not say valid.
	Denied func(key *verifier.Record, at time.Time)
	// GatewayOrganization is whose keys a gateway asks about that shows no key of its own; empty: it may not ask.
	GatewayOrganization domain.OrganizationID
	// GitHub checks the signature of a batch of GitHub's secret scanning; nil means that no batch is taken.
	GitHub func(keyID, signature string, body []byte) error
	// ClientIP says where a request came from, and is zero where that is not known; nil means its connection's other end.
	ClientIP func(r *http.Request) netip.Addr
	// Heartbeat is how often a quiet stream shows life and its caller's key is looked at again; 0 means 10 s.
	Heartbeat time.Duration
}

// Core is what all surfaces of one process share.
type Core struct {
	Config
	router   *chi.Mux
	surfaces []*Surface // the first one also has what belongs to no other
	running  running
	quick    map[string]quickRoute // by path
	asked    asked
}

// NewCore returns a core with an empty router.
func NewCore(cfg Config) *Core {
	useOurErrors()
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Ready == nil {
		cfg.Ready = func(context.Context) error { return nil }
	}
	if cfg.Counter == nil {
		cfg.Counter = func(string, int) func(time.Duration) { return func(time.Duration) {} }
	}
	if cfg.Usage == nil {
		cfg.Usage = func(*verifier.Record, netip.Addr, string, time.Time) {}
	}
	if cfg.Denied == nil {
		cfg.Denied = func(*verifier.Record, time.Time) {}
	}
	if cfg.ClientIP == nil {
		cfg.ClientIP = RemoteHost
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = 10 * time.Second
	}
	c := &Core{Config: cfg, router: chi.NewMux(), quick: map[string]quickRoute{}}
	c.router.Use(c.observe, recoverPanics, middleware.GetHead)
	c.router.NotFound(c.noRoute)
	c.router.MethodNotAllowed(c.otherMethod)
	return c
}

// RemoteHost is the address of the connection's other end; it is zero where that has none (a Unix socket).
func RemoteHost(r *http.Request) netip.Addr { return clientip.FromRequest(r, nil) }

// Handler serves all surfaces.
func (c *Core) Handler() http.Handler { return handler{c.router, c.anyMethod(c.quickly(c.router))} }

// handler is the router, with what answers quickly in front of it: the router alone costs as much as a verify.
type handler struct {
	*chi.Mux
	front http.Handler
}

// ServeHTTP answers a request.
func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.front.ServeHTTP(w, r) }

// Handle registers a route outside of any document, such as a document itself.
func (c *Core) Handle(method, path string, handler http.HandlerFunc) {
	c.router.Method(method, path, handler)
}

// Style is the form of a surface.
type Style struct {
	// Title and Description head its document.
	Title, Description string
	// Topics group its routes in the document; nil means that all are about what the title says.
	Topics []Topic
	// Switch is the name under which an organization can switch the surface off; empty: it cannot.
	Switch string
	// Prefixes are the paths that belong to it. The longest that fits wins; the first surface has what fits nowhere.
	Prefixes []string
	// Credential finds the caller's key in a request; nil means RFC 6750's header.
	Credential func(http.Header) Credential
	// Schemes describes that for the document; nil means bearerAuth.
	Schemes map[string]*huma.SecurityScheme
	// Narrow, if not nil, may put a narrower key in the place of the one that was presented.
	Narrow func(ctx context.Context, core *Core, r *http.Request, key *projections.Key) (*projections.Key, error)
	// Closed says that also a path without a route asks for a key first.
	Closed bool
	// Shape gives an error the surface's body, and may change its status; nil leaves the problem document.
	Shape func(*Problem) any
	// ErrorBody is an empty one of those bodies, for the document.
	ErrorBody any
}

// Surface is one set of routes with a form of its own.
type Surface struct {
	*Core
	style    Style
	huma     huma.API
	document string // where its document is
}

// Add makes a surface on the core's router.
func (c *Core) Add(style Style) *Surface {
	if style.Credential == nil {
		style.Credential = Bearer
	}
	if style.Schemes == nil {
		style.Schemes = map[string]*huma.SecurityScheme{
			"bearerAuth": {Type: "http", Scheme: "bearer", Description: "A rekey key that holds the route's scope"},
		}
	}
	if style.Topics == nil {
		style.Topics = []Topic{{style.Title, style.Description, []string{"/"}}}
	}
	s := &Surface{Core: c, style: style, huma: humachi.New(c.router, humaConfig(c.Version, style))}
	c.surfaces = append(c.surfaces, s)
	return s
}

// surfaceOf is the surface that a path belongs to, whether it has such a route or not.
func (c *Core) surfaceOf(path string) *Surface {
	found, length := c.surfaces[0], 0
	for _, s := range c.surfaces {
		for _, prefix := range s.style.Prefixes {
			under := path == prefix || strings.HasPrefix(path, strings.TrimSuffix(prefix, "/")+"/")
			if under && len(prefix) > length {
				found, length = s, len(prefix)
			}
		}
	}
	return found
}

// noRoute answers for a path that nobody serves.
func (c *Core) noRoute(w http.ResponseWriter, r *http.Request) {
	WriteError(w, r, cmp.Or(mayAsk(r), error(domain.NotFound("route"))))
}

// mayAsk refuses who shows no key where even what there is not asks for one.
func mayAsk(r *http.Request) error {
	s := info(r.Context()).surface
	if !s.style.Closed {
		return nil
	}
	_, err := s.Authenticate(r)
	return err
}

// otherMethod answers a method that a path does not have: with those it has.
func (c *Core) otherMethod(w http.ResponseWriter, r *http.Request) {
	path := r.URL.RawPath
	if path == "" {
		path = r.URL.Path
	}
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if c.router.Match(chi.NewRouteContext(), method, path) {
			allowed = append(allowed, method)
		}
		if method == http.MethodGet && len(allowed) == 1 {
			allowed = append(allowed, http.MethodHead)
		}
	}
	if len(allowed) == 0 {
		c.noRoute(w, r)
		return
	}
	w.Header().Set("Allow", strings.Join(append(allowed, http.MethodOptions), ", "))
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	refused := domain.Refuse(domain.CodeMethodNotAllowed, "%s is not possible here; the Allow header lists what is", knownMethod(r.Method))
	WriteError(w, r, cmp.Or(mayAsk(r), error(refused)))
}
