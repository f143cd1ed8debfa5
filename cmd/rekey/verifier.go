package main

import (
	"context"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/projections/verifier"
)

// buildVerifier builds what answers verifies from memory, and what makes commands wait for it.
func (p *process) buildVerifier() {
	p.verifier = verifier.New(verifier.Config{
		Reader: p.reader, Limiter: p.limiter, Pool: p.pools.leases, Log: p.store, Name: p.leaseName(), Logger: p.cfg.Logger,
		Now: p.cfg.Now,
	})
	p.hints = make(chan int64, 1)
	p.barrier = verifier.NewBarrier(verifier.BarrierConfig{Pool: p.pools.leases, Local: p.verifier, Hint: p.hint})
}

// waitsAt is what commands wait at before they are answered.
func (p *process) waitsAt() commands.Barrier {
	if p.cfg.wrapBarrier != nil {
		return p.cfg.wrapBarrier(p.barrier)
	}
	return p.barrier
}

// leaseName says to people which process a lease is of.
func (p *process) leaseName() string {
	if p.api == nil {
		return ""
	}
	return p.api.Addr().String()
}

// startVerifier keeps the verifier's memory until the last request has been answered: the function it returns ends that.
// Only a process that answers requests has one.
func (p *process) startVerifier(ctx context.Context) (stop func()) {
	p.listenForHints()
	if !p.has(roleAPI) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var done sync.WaitGroup
	done.Go(func() { p.verifier.Run(ctx) })
	return func() { cancel(); done.Wait() }
}

// listenForHints connects this process with the others for hints, which all of it works without.
func (p *process) listenForHints() {
	conn, err := p.connectNATS(nats.Name("rekey hints"), nats.RetryOnFailedConnect(true), nats.NoEcho())
	if err == nil {
		p.down = append(p.down, conn.Close)
		_, err = conn.Subscribe(verifier.HintSubject, func(*nats.Msg) { p.store.Wake() })
	}
	if err != nil {
		p.cfg.Logger.Warn("there are no hints of revokes between replicas; they find out by polling", "error", err)
		return
	}
	stop := make(chan struct{})
	p.down = append(p.down, func() { close(stop) })
	go func() {
		for {
			select {
			case <-stop:
				return
			case position := <-p.hints:
				_ = conn.Publish(verifier.HintSubject, strconv.AppendInt(nil, position, 10)) // it may be lost
			}
		}
	}()
}

// hint tells the other processes that the log has moved. A connection that is stuck must not hold a command up, so the
// sending is somebody else's; who is behind with it sends one hint for several.
func (p *process) hint(position int64) {
	select {
	case p.hints <- position:
	default:
	}
}

// used is told of every use of a key.
func (p *process) used(record *verifier.Record, from netip.Addr, agent string, at time.Time) {
	of := record.Used()
	p.usage.Count(&of, from, at, true)
	if record.InGrace() {
		p.graceUses.Used(record.Key(), from, agent, at)
	}
}

// denied is told of every verify that found a key and did not say valid.
func (p *process) denied(record *verifier.Record, at time.Time) {
	of := record.Used()
	p.usage.Count(&of, netip.Addr{}, at, false)
}
