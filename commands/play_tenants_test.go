package commands_test

import (
	"context"
	"slices"
	"time"

	"github.com/rekeyhq/rekey/commands"
	"github.com/rekeyhq/rekey/domain"
)

func (p *play) environment(r *replica, a action) (bool, error) {
	at, _ := pick(p, a, &p.places)
	_, err := r.CreateEnvironment(context.Background(), at.by, at.id, sprintf("env-%d", a.Pick%5))
	return err == nil, p.gone(err)
}

func (p *play) project(r *replica, a action) (bool, error) {
	at, _ := pick(p, a, &p.places)
	project, err := r.CreateProject(context.Background(), at.by, commands.CreateProject{Name: "app"})
	if err != nil {
		return false, err
	}
	add(p, &p.places, place{at.by, project.ID})
	return true, nil
}

func (p *play) organization(r *replica, _ action) (bool, error) {
	tenant, err := r.CreateOrganization(context.Background(), p.root, "acme")
	if err != nil {
		return false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settle(commands.By{Caller: tenant.Key.Caller()}, tenant)
	return true, nil
}

// policy edits a project and what it asks of its keys.
func (p *play) policy(r *replica, a action) (bool, error) {
	at, _ := pick(p, a, &p.places)
	c := domain.UpdateProject{ID: at.id, Name: domain.ChangeTo(sprintf("app %d", a.Pick%5)), Policy: domain.ChangePolicyTo(domain.Policy{})}
	grace := int64(a.Grace / time.Second)
	switch a.Pick % 6 {
	case 4:
		c.Policy = domain.PolicyChange{
			MaxOverlapSeconds: domain.ChangeTo(int64(3600)), EarlyRetireSeconds: domain.ChangeTo(int64(3600)),
			RotationTimeout: domain.ChangeTo([]domain.TimeoutAction{domain.TimeoutHold, domain.TimeoutRollback, domain.TimeoutExpireOld}[a.Pick%3]),
		}
	case 5:
		c.Policy = domain.PolicyChange{RotationWindow: domain.ChangeTo(&domain.Window{Start: "13:00", LengthMinutes: 60, TimeZone: "Europe/Berlin"})}
	case 0:
		c.Policy = domain.PolicyChange{MaxGraceSeconds: domain.ChangeTo(&grace), DefaultGraceSeconds: domain.ChangeTo(&a.Interval)}
	case 1:
		c.Policy = domain.PolicyChange{MaxLifetimeSeconds: domain.ChangeTo(int64(a.Life / time.Second)), RequireExpiry: domain.ChangeTo(a.Flag)}
	case 2:
		c.Policy, c.Brand = domain.PolicyChange{AllowedScopes: domain.ChangeTo(domain.Scopes{"orders:*", "keys:read"}), OnLeak: domain.ChangeTo(domain.LeakNotify)}, domain.ChangeTo("shop")
	}
	_, err := r.UpdateProject(context.Background(), at.by, c)
	return err == nil, p.gone(err)
}

// delete mostly meets a project with keys. One that was just made has none.
func (p *play) delete(r *replica, a action) (bool, error) {
	if a.Flag {
		if _, err := p.project(r, a); err != nil {
			return false, err
		}
		a.Pick = 0
	}
	at, ok := p.take(a)
	if !ok {
		return false, nil
	}
	err := r.DeleteProject(context.Background(), at.by, at.id)
	if err != nil {
		add(p, &p.places, at)
	}
	return err == nil, p.gone(err)
}

// take removes a project from those that are played with, but for the last one.
func (p *play) take(a action) (place, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.places)
	if n < 2 {
		return place{}, false
	}
	i := n - 1 - a.Pick%n
	at := p.places[i]
	p.places = slices.Delete(p.places, i, i+1)
	return at, true
}

func (p *play) surfaces(r *replica, a action) (bool, error) {
	at, _ := pick(p, a, &p.places)
	_, err := r.UpdateOrganization(context.Background(), at.by, domain.UpdateOrganization{
		ID: at.by.Caller.OrganizationID, DisabledSurfaces: domain.ChangeTo(domain.Surfaces()[:a.Pick%4]),
	})
	return err == nil, err
}
