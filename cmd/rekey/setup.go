package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/rekeyhq/rekey/projections"
)

// setUp makes the first organization, project, environment and root key, once for an installation. Replicas that start
// together take turns.
func (p *process) setUp(ctx context.Context) error {
	turn, err := p.store.Own(ctx, "setup")
	if err != nil {
		return err
	}
	defer turn.Release()
	organizations, err := p.reader.Organizations(ctx, projections.Page{Limit: 1})
	if err != nil || len(organizations) > 0 {
		return err
	}
	tenant, err := p.commands.Setup(ctx, p.cfg.RootKey)
	if err != nil {
		return fmt.Errorf("set up the installation: %w", err)
	}
	if p.cfg.RootKey.IsZero() {
		p.rootKey = tenant.Secret
	}
	p.cfg.Logger.Info("set up", "organization_id", tenant.OrganizationID, "project_id", tenant.Key.ProjectID, "root_key_id", tenant.Key.ID)
	return nil
}

// announce prints the one line that says that everything is up.
func (p *process) announce() error {
	line := "ready"
	if p.api != nil {
		line += " url=http://" + p.api.Addr().String()
	}
	if p.local != nil && p.local.nats != nil {
		line += " nats=" + p.local.nats.URL()
	} else {
		line += " nats=" + redactURL(p.cfg.NATSURL)
	}
	if !p.rootKey.IsZero() {
		line += " root_key=" + p.rootKey.Reveal() // the one place that prints a secret: it was made now, for the operator
	}
	p.cfg.Logger.Info("ready", p.cfg.summary())
	_, err := fmt.Fprintln(p.cfg.Out, line)
	return err
}

// ownAddresses are those that webhooks must never reach, even where private networks are allowed.
func (p *process) ownAddresses() []netip.AddrPort {
	var own []netip.AddrPort
	for _, listener := range []net.Listener{p.api, p.observe} {
		if listener == nil {
			continue
		}
		if tcp, ok := listener.Addr().(*net.TCPAddr); ok {
			own = append(own, tcp.AddrPort())
		}
	}
	if p.local != nil {
		own = append(own, p.local.addresses()...)
	}
	return own
}
