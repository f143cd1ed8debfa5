package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"github.com/rekeyhq/rekey/api/surface"
	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/internal/github"
)

// Times of one report: how long its body may take to arrive, and the acting on it. GitHub waits for 30 s.
const (
	leakBodyTimeout = 8 * time.Second
	leakTimeout     = 20 * time.Second
)

type githubInput struct {
	Body []github.Match `nullable:"false"`
}

type githubOutput struct {
	Body []github.Feedback `nullable:"false"`
}

// githubLeaks acts on a batch that signed let through.
func (s *server) githubLeaks(ctx context.Context, in *githubInput) (*githubOutput, error) {
	leaks := make([]commands.Leak, len(in.Body))
	for i, match := range in.Body {
		leaks[i] = commands.Leak{Secret: match.Token, Source: match.SourceName(), URL: match.URL}
	}
	outcomes, err := s.reportLeaks(ctx, leaks)
	if err != nil {
		return nil, err
	}
	out := &githubOutput{Body: make([]github.Feedback, len(outcomes))}
	for i, outcome := range outcomes {
		out.Body[i] = in.Body[i].Answer(outcome.Known)
	}
	return out, nil
}

func (s *server) reportLeaks(ctx context.Context, leaks []commands.Leak) ([]commands.LeakOutcome, error) {
	ctx, cancel := context.WithTimeout(ctx, leakTimeout)
	defer cancel()
	return s.Commands.ReportLeaks(ctx, surface.RequestID(ctx), leaks)
}

// signedByGitHub opens a route to bodies that GitHub signed. Fields that GitHub may add one day are no fault in them.
func (s *server) signedByGitHub(operation *huma.Operation) {
	surface.Bodies(github.MaxBodyBytes, leakBodyTimeout)(operation)
	operation.Middlewares = append(operation.Middlewares, s.checkGitHub)
	operation.SkipValidateBody = true
	operation.Description = "The receiver of GitHub's secret scanning partner program. The signature of the body is the " +
		"credential. It answers 404 unless the operator has configured GitHub's public keys."
	operation.Errors = append(operation.Errors, http.StatusUnauthorized, http.StatusNotFound)
	for _, header := range []struct{ name, description string }{
		{github.HeaderKeyID, "Which of GitHub's keys signed the body"},
		{github.HeaderSignature, "ECDSA P-256 over the SHA-256 of the body, ASN.1 in base64"},
	} {
		operation.Parameters = append(operation.Parameters, &huma.Param{
			Name: header.name, In: "header", Required: true, Description: header.description, Schema: &huma.Schema{Type: huma.TypeString},
		})
	}
}

// checkGitHub reads the body, because the signature is one of its very bytes, and lets nothing unsigned be parsed.
func (s *server) checkGitHub(ctx huma.Context, next func(huma.Context)) {
	r, w := humachi.Unwrap(ctx)
	if s.GitHub == nil {
		surface.WriteError(w, r, domain.NotFound("route"))
		return
	}
	body, err := readBody(w, r, github.MaxBodyBytes)
	if err == nil {
		err = s.checkSignature(r.Header, body)
	}
	if err != nil {
		surface.WriteError(w, r, err)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	next(ctx)
}

func (s *server) checkSignature(header http.Header, body []byte) error {
	if s.GitHub(header.Get(github.HeaderKeyID), header.Get(github.HeaderSignature), body) != nil {
		return domain.Refuse(domain.CodeUnauthenticated, "the signature of the batch is missing or not valid")
	}
	return nil
}

// readBody reads a whole body up to a limit, in bounded time.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(leakBodyTimeout)) // the server has a deadline of its own
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, domain.Refuse(domain.CodeTooLarge, "the body is larger than %d bytes", limit)
	}
	if err != nil {
		return nil, domain.Refuse(domain.CodeInvalidRequest, "the body broke off, or did not arrive in time").WithCause(err)
	}
	return body, nil
}

type revokeLeakedInput struct {
	Body struct {
		Key  *string  `json:"key,omitempty" nullable:"true" example:"rk_live_..." doc:"The secret that was found"`
		Keys []string `json:"keys,omitempty" minItems:"1" maxItems:"100" nullable:"true" doc:"Several of them; instead of key"`
		URL  string   `json:"url,omitempty" nullable:"true" example:"https://git.example.com/acme/demo/src/.env" doc:"Where; it is kept without credentials, query and fragment, and dropped if it tells the secret"`
	}
}

type revokeLeakedBody struct {
	Received bool `json:"received" doc:"Always true, whether a key was known or not"`
}

type revokeLeakedOutput struct{ Body revokeLeakedBody }

// revokeLeaked acts on secrets whose holder wants them dead, or to be known. Having a secret is the right to report it. The
// answer is the same for any secret: it must not help to find out which ones are keys.
func (s *server) revokeLeaked(ctx context.Context, in *revokeLeakedInput) (*revokeLeakedOutput, error) {
	secrets := in.Body.Keys
	switch {
	case in.Body.Key != nil && secrets != nil:
		return nil, domain.InvalidField("keys", "is given beside key", "send one of the two")
	case in.Body.Key != nil:
		secrets = []string{*in.Body.Key}
	case secrets == nil:
		return nil, domain.InvalidField("key", "is missing", "send the secret as key, or several as keys")
	}
	leaks := make([]commands.Leak, len(secrets))
	for i, secret := range secrets {
		leaks[i] = commands.Leak{Secret: secret, Source: "possession", URL: in.Body.URL}
	}
	if _, err := s.reportLeaks(ctx, leaks); err != nil {
		return nil, err
	}
	return &revokeLeakedOutput{Body: revokeLeakedBody{Received: true}}, nil
}

// provesByPossession documents what the answer means.
func provesByPossession(operation *huma.Operation) {
	operation.Description = "Needs no key: whoever has a secret may have it revoked. When it has answered, each key whose " +
		"project has not chosen otherwise (`policy.on_leak`) is revoked, on every replica. The answer is the same for " +
		"what is no key at all."
}
