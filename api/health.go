package api

import (
	"context"
	"time"

	"github.com/rekeyhq/rekey/domain"
)

type healthOutput struct {
	Body struct {
		Status  string `json:"status" example:"ok"`
		Version string `json:"version"`
	}
}

// health says that the process runs. It does not look at what it depends on: restarting it would not mend that.
func (s *server) health(context.Context, *struct{}) (*healthOutput, error) {
	out := &healthOutput{}
	out.Body.Status, out.Body.Version = "ok", s.Version
	return out, nil
}

// ready says whether requests sent here can be answered now.
func (s *server) ready(ctx context.Context, _ *struct{}) (*healthOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := s.Ready(ctx); err != nil {
		return nil, domain.Refuse(domain.CodeUnavailable, "this replica cannot serve now").WithCause(err)
	}
	return s.health(ctx, nil)
}
