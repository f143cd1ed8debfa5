package domain

import (
	"fmt"
	"testing"
	"time"
)

// newProject asks for proj1.
func newProject(name, brand string) NewProject {
	return NewProject{ID: proj1, OrganizationID: org1, EnvironmentID: env1, Name: name, Brand: brand, Caller: System()}
}

func TestCreateProject(t *testing.T) {
	t.Parallel()
	for brand, want := range map[string]string{"": "rk", "acme": "acme", "a-1": "a-1"} {
		got, err := CreateProject(newProject(" Demo ", brand))
		if err != nil {
			t.Fatal(err)
		}
		same(t, "events", got, []Decided{
			{StreamID: string(proj1), OrganizationID: org1, ProjectID: proj1, Data: ProjectCreated{Name: "Demo", Brand: want}},
			{StreamID: string(proj1), OrganizationID: org1, ProjectID: proj1, Data: EnvironmentCreated{EnvironmentID: env1, Name: "live"}},
		})
	}
	_, err := CreateProject(newProject("", ""))
	refused(t, err, CodeValidation, "name")
	_, err = CreateProject(newProject("Demo", "a_b"))
	refused(t, err, CodeValidation, "brand")
}

func TestCreateEnvironment(t *testing.T) {
	t.Parallel()
	got, err := project(liveEnvironment).CreateEnvironment(env2, "pre-prod")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "events", got, []Decided{
		{StreamID: string(proj1), OrganizationID: org1, ProjectID: proj1, Data: EnvironmentCreated{EnvironmentID: env2, Name: "pre-prod"}},
	})
	for _, bad := range []string{"", "Live", "a_b", "live"} { // the last one is taken
		_, err := project(liveEnvironment).CreateEnvironment(env2, bad)
		refused(t, err, CodeValidation, "name")
	}
	var many []Environment
	for i := range MaxEnvironments {
		many = append(many, Environment{Name: fmt.Sprintf("e%d", i)})
	}
	if _, err := project(many[1:]...).CreateEnvironment(env2, "one-more"); err != nil {
		t.Fatal(err)
	}
	_, err = project(many...).CreateEnvironment(env2, "one-more")
	refused(t, err, CodeValidation, "project_id")
}

func TestCreateProjectWithAPolicy(t *testing.T) {
	t.Parallel()
	asked := newProject("Demo", "")
	asked.Policy = Policy{MaxLifetimeSeconds: 60, AllowedScopes: Scopes{"a", "a", "b:*"}, OnLeak: LeakRevoke, MaxGraceSeconds: new(int64(0))}
	got, err := CreateProject(asked)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "events", got[0].Data, ProjectCreated{Name: "Demo", Brand: "rk", Policy: Policy{
		MaxLifetimeSeconds: 60, AllowedScopes: Scopes{"a", "b:*"}, MaxGraceSeconds: new(int64(0)),
	}})
	for field, p := range map[string]Policy{
		"policy.max_lifetime_seconds":  {MaxLifetimeSeconds: -1},
		"policy.default_grace_seconds": {DefaultGraceSeconds: new(int64(61)), MaxGraceSeconds: new(int64(60))},
		"policy.max_grace_seconds":     {MaxGraceSeconds: new(int64(2592001))},
		"policy.allowed_scopes[1]":     {AllowedScopes: Scopes{"a", ""}},
		"policy.on_leak":               {OnLeak: "tell"},
	} {
		asked.Policy = p
		_, err := CreateProject(asked)
		refused(t, err, CodeValidation, field)
	}
	asked.Policy = Policy{MaxLifetimeSeconds: 3153600001}
	_, err = CreateProject(asked)
	refused(t, err, CodeValidation, "policy.max_lifetime_seconds")
	asked.Policy = Policy{DefaultGraceSeconds: new(int64(-1))}
	_, err = CreateProject(asked)
	refused(t, err, CodeValidation, "policy.default_grace_seconds")
}

// A key that is limited to projects could not use another one that it makes.
func TestG8CreateProjectRefusesACallerLimitedToProjects(t *testing.T) {
	t.Parallel()
	asked := newProject("Demo", "")
	asked.Caller = Caller{Scopes: Scopes{"*"}, Operator: true, Resources: Resources{"project": {string(proj1)}}}
	_, err := CreateProject(asked)
	refused(t, err, CodeEscalation, "resources")
	asked.Caller.Resources = Resources{"app": {"x"}}
	if _, err := CreateProject(asked); err != nil {
		t.Error(err)
	}
}

func TestMayUseProject(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		limits Resources
		want   bool
	}{
		{nil, true}, {Resources{"app": {"x"}}, true}, {Resources{"project": {"proj_x", string(proj1)}}, true},
		{Resources{"project": {"proj_x"}}, false}, {Resources{"project": {}}, false},
	} {
		if got := (Caller{Resources: c.limits}).MayUseProject(proj1); got != c.want {
			t.Errorf("%v: %v", c.limits, got)
		}
	}
	if !System().MayUseProject(proj1) {
		t.Error("the system may not")
	}
}

func TestUpdateProject(t *testing.T) {
	t.Parallel()
	before := func() *Project {
		p := project(liveEnvironment)
		p.Name, p.Brand, p.Policy = "Demo", "acme", Policy{RequireExpiry: true, AllowedScopes: Scopes{"a"}}
		return p
	}
	for _, c := range []struct {
		name string
		edit UpdateProject
		want ProjectUpdated // without Changed: nothing is decided
	}{
		{
			name: "OneField", edit: UpdateProject{Name: ChangeTo(" Shop ")},
			want: ProjectUpdated{Changed: []string{"name"}, Name: "Shop", Brand: "acme", Policy: before().Policy},
		}, {
			name: "TheBrandBackToTheDefault", edit: UpdateProject{Brand: ChangeTo("")},
			want: ProjectUpdated{Changed: []string{"brand"}, Name: "Demo", Brand: "rk", Policy: before().Policy},
		}, {
			name: "OneTermOfThePolicy", edit: UpdateProject{Policy: PolicyChange{MaxGraceSeconds: ChangeTo(new(int64(0)))}},
			want: ProjectUpdated{Changed: []string{"policy.max_grace_seconds"}, Name: "Demo", Brand: "acme", Policy: Policy{
				RequireExpiry: true, AllowedScopes: Scopes{"a"}, MaxGraceSeconds: new(int64(0)),
			}},
		}, {
			name: "TheWholePolicy", edit: UpdateProject{Policy: ChangePolicyTo(Policy{})},
			want: ProjectUpdated{Changed: []string{"policy.require_expiry", "policy.allowed_scopes"}, Name: "Demo", Brand: "acme"},
		},
		{name: "Nothing", edit: UpdateProject{}},
		{name: "ToTheSame", edit: UpdateProject{Name: ChangeTo("Demo"), Brand: ChangeTo("acme"), Policy: ChangePolicyTo(Policy{
			RequireExpiry: true, AllowedScopes: Scopes{"a", "a"}, OnLeak: LeakRevoke,
		})}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := before().Update(c.edit)
			if err != nil {
				t.Fatal(err)
			}
			if c.want.Changed == nil {
				same(t, "events", got, []Decided(nil))
				return
			}
			same(t, "events", got, []Decided{{StreamID: string(proj1), OrganizationID: org1, ProjectID: proj1, Data: c.want}})
		})
	}
	for field, bad := range map[string]UpdateProject{
		"name":           {Name: ChangeTo("")},
		"brand":          {Brand: ChangeTo("UP")},
		"policy.on_leak": {Policy: PolicyChange{OnLeak: ChangeTo(LeakAction("x"))}},
		// Each term is fine, the two together are not.
		"policy.default_grace_seconds": {Policy: PolicyChange{DefaultGraceSeconds: ChangeTo(new(int64(2))), MaxGraceSeconds: ChangeTo(new(int64(1)))}},
	} {
		_, err := before().Update(bad)
		refused(t, err, CodeValidation, field)
	}
}

func TestADeletedProjectIsNotThere(t *testing.T) {
	t.Parallel()
	p := project(liveEnvironment)
	got, err := p.Delete()
	if err != nil {
		t.Fatal(err)
	}
	same(t, "events", got, []Decided{{StreamID: string(proj1), OrganizationID: org1, ProjectID: proj1, Data: ProjectDeleted{}}})
	for _, e := range tenantEvents(got) {
		p.Apply(e)
	}
	for what, decide := range map[string]func() ([]Decided, error){
		"create a key":   func() ([]Decided, error) { return p.CreateKeyIn(create(nil), testLimits, start) },
		"an environment": func() ([]Decided, error) { return p.CreateEnvironment(env2, "test") },
		"update":         func() ([]Decided, error) { return p.Update(UpdateProject{Name: ChangeTo("x")}) },
		"delete":         p.Delete,
	} {
		decided, err := decide()
		if len(decided) != 0 || refused(t, err, CodeNotFound, "").Message != "no such project" {
			t.Errorf("%s: %v, %v", what, decided, err)
		}
	}
}

// What follows from events stays: name, policy and the time of the last edit, but not of a new environment.
func TestFoldProject(t *testing.T) {
	t.Parallel()
	decided := []Decided{
		{Data: ProjectCreated{Name: "a", Brand: "rk", Policy: Policy{RequireExpiry: true}}},
		{Data: ProjectUpdated{Name: "b", Brand: "bb", Policy: Policy{OnLeak: LeakNotify}}},
		{Data: EnvironmentCreated{EnvironmentID: env1, Name: "live"}},
		{Data: ProjectDeleted{}},
	}
	var p Project
	for i, d := range decided {
		p.Apply(Event{StreamID: string(proj1), Version: int64(i + 1), OrganizationID: org1, OccurredAt: at(time.Duration(i) * hour), Data: d.Data})
	}
	same(t, "states", &p, &Project{
		ID: proj1, Version: 4, OrganizationID: org1, Name: "b", Brand: "bb", Policy: Policy{OnLeak: LeakNotify}, CreatedAt: start,
		UpdatedAt: at(hour), DeletedAt: new(at(3 * hour)), Environments: []Environment{{env1, "live", at(2 * hour)}},
	})
}
