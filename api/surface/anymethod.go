package surface

import (
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Methods are those under which a route that takes any is registered and documented.
var Methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// Ask answers what a gateway asks about a request of its client. It is given the header of its answer, with what all answers
// have, and writes a 200; where it reports false it has written nothing, and the router answers.
type Ask func(w http.ResponseWriter, r *http.Request) bool

// asked is the route that gateways ask.
type asked struct {
	path  string
	ask   Ask
	count func(took time.Duration) // of answers
}

// TakeAnyMethod has a route answer all methods alike, and all paths below it: gateways pass on the method of their client,
// and some its path too. What such a path's query says is the client's, so it is dropped.
//
// Nothing of this path may ever be answered by what answers other routes, above all not OPTIONS: gateways let a request
// through for any 2xx.
func (c *Core) TakeAnyMethod(path string, ask Ask) {
	c.asked = asked{path, ask, c.Counter(path, http.StatusOK)}
}

// anyMethod answers what the route takes quickly, or hands it on under its path and a method that the router knows.
func (c *Core) anyMethod(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		below, isAsked := strings.CutPrefix(r.URL.Path, c.asked.path)
		if c.asked.ask == nil || !isAsked || below != "" && below[0] != '/' {
			next.ServeHTTP(w, r)
			return
		}
		if below != "" || !slices.Contains(Methods, r.Method) {
			r = c.asked.known(r, below)
		}
		if plainID(r.Header) && !c.Logger.Enabled(r.Context(), slog.LevelDebug) { // who debugs wants a line of each request
			began := time.Now()
			quickHeader(w, r, began)
			if c.asked.ask(w, r) {
				c.asked.count(time.Since(began))
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// known is a request as the router knows it.
func (a asked) known(r *http.Request, below string) *http.Request {
	same := *r
	if below != "" {
		same.URL = &url.URL{Path: a.path}
	}
	if !slices.Contains(Methods, r.Method) {
		same.Method = http.MethodGet
	}
	return &same
}
