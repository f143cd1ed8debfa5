package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rekeyhq/rekey/domain"
	"github.com/rekeyhq/rekey/eventstore"
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

// checkSealed refuses to start with a master key that cannot open what waits to be delivered.
func (p *process) checkSealed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return p.commands.CheckSealed(ctx)
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

// ownAddresses are those that webhooks must never reach, even where private networks are allowed: what listens here, and
// the Postgres and the NATS behind it.
func (p *process) ownAddresses(ctx context.Context) []netip.AddrPort {
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
	return append(own, resolveAll(ctx, serversOf(p.cfg.DatabaseURL, p.cfg.NATSURL))...)
}

// server is where something that rekey uses listens.
type server struct {
	host string
	port uint16
}

// serversOf lists the servers that the URLs name; those of unix sockets have no address.
func serversOf(databaseURL, natsURL string) []server {
	var servers []server
	add := func(host string, port uint16) {
		if host != "" && !strings.HasPrefix(host, "/") {
			servers = append(servers, server{host, port})
		}
	}
	if config, err := pgx.ParseConfig(databaseURL); databaseURL != "" && err == nil {
		add(config.Host, config.Port)
		for _, other := range config.Fallbacks {
			add(other.Host, other.Port)
		}
	}
	for server := range strings.SplitSeq(natsURL, ",") {
		if u, err := url.Parse(strings.TrimSpace(server)); err == nil {
			port, err := strconv.ParseUint(cmp.Or(u.Port(), "4222"), 10, 16)
			if err == nil {
				add(u.Hostname(), uint16(port))
			}
		}
	}
	return servers
}

// resolveAll finds the addresses behind names, as they are at the start. What has none cannot be reached by us either.
func resolveAll(ctx context.Context, servers []server) []netip.AddrPort {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var all []netip.AddrPort
	for _, s := range servers {
		addrs, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", s.host)
		for _, addr := range addrs {
			all = append(all, netip.AddrPortFrom(addr.Unmap(), s.port))
		}
	}
	return all
}

// findGatewayOrganization reads whose keys gateways ask about that show no key of their own. The log begins with the
// organization of the first start.
func (p *process) findGatewayOrganization(ctx context.Context) error {
	p.gatewayOrganization = domain.OrganizationID(p.cfg.GatewayOrganization)
	if p.cfg.GatewayOrganization != firstOrganization {
		return nil
	}
	first, err := p.store.Read(ctx, eventstore.Lifecycle, 0, 1)
	if err != nil {
		return fmt.Errorf("find the organization of the first start: %w", err)
	}
	p.gatewayOrganization = ""
	if len(first) > 0 {
		p.gatewayOrganization = first[0].OrganizationID
	}
	return nil
}
