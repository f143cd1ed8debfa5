package domain

import (
	"encoding/json"
	"testing"
	"time"
)

const hook = "https://example.com/hook"

// registered is an unverified endpoint of a project.
func registered(id EndpointID, project ProjectID) *Endpoint {
	return &Endpoint{
		ID: id, Version: 1, OrganizationID: org1, ProjectID: project, Target: plainTo(hook), AckLevel: AckAccepted,
		State: EndpointUnverified, CreatedAt: start, UpdatedAt: start,
	}
}

// toEndpoint lets a key be told of its rotations at ep1, which is registered.
func toEndpoint(c *Created) {
	hourly(c)
	c.WebhookURL = ""
}

func plainTo(url string) Target { return Target{URL: url, SecretMode: SecretPlain} }

func sealedTo(url, key string) Target {
	return Target{url, SecretSealed, &ReceiverKey{"id of " + key, key}}
}

// after folds payloads into ep1, one per minute from start on.
func after(t testing.TB, history ...Payload) *Endpoint {
	t.Helper()
	events := make([]Event, len(history))
	for i, p := range history {
		events[i] = Event{
			StreamID: string(ep1), Version: int64(i + 1), OrganizationID: org1, ProjectID: proj1, Data: p,
			OccurredAt: at(time.Duration(i) * time.Minute),
		}
	}
	state, err := Fold(string(ep1), events)
	if err != nil {
		t.Fatal(err)
	}
	return state.(*Endpoint)
}

var (
	plainCreated = EndpointCreated{URL: hook, SecretMode: SecretPlain, AckLevel: AckAccepted, SigningPublicKey: "whpk_1"}
	proven       = EndpointVerified{plainTo(hook)}
	paused       = EndpointStateChanged{EndpointPaused, "a move"}
	disabled     = EndpointStateChanged{EndpointDisabled, "gone"}
	moving       = EndpointUpdated{Changed: []string{"url"}, Target: plainTo(hook), AckLevel: AckAccepted, Proposed: new(plainTo("https://new.example.com"))}
)

var (
	certificate = ClientCertificate{
		Digest: "ab01", Fingerprint: "cd02", Subject: "CN=rekey", Issuer: "CN=Acme CA", Serial: "0f", NotBefore: start, NotAfter: at(24 * hour),
	}
	certified = EndpointUpdated{Changed: []string{"client_certificate"}, Target: plainTo(hook), AckLevel: AckAccepted, ClientCertificate: &certificate}
)

func TestRegisterEndpoint(t *testing.T) {
	t.Parallel()
	p := &Project{ID: proj1, OrganizationID: org1}
	for _, target := range []Target{plainTo(hook), sealedTo(hook, "k"), {URL: hook, SecretMode: SecretClaim}} {
		got, err := p.RegisterEndpoint(RegisterEndpoint{ep1, target, AckProof, nil, "whpk_1", nil})
		if err != nil {
			t.Fatal(err)
		}
		same(t, "events", got, []Decided{{string(ep1), org1, proj1, EndpointCreated{
			URL: hook, SecretMode: target.SecretMode, AckLevel: AckProof, ReceiverKey: target.ReceiverKey, SigningPublicKey: "whpk_1",
		}}})
	}
	for field, c := range map[string]RegisterEndpoint{
		"secret_mode":         {ep1, Target{URL: hook}, AckAccepted, nil, "", nil},
		"receiver_public_key": {ep1, Target{URL: hook, SecretMode: SecretSealed}, AckAccepted, nil, "", nil},
		"ack_level":           {ep1, plainTo(hook), AckAnswer, nil, "", nil},
		"client_certificate":  {ep1, plainTo("http://127.0.0.1/hook"), AckAccepted, nil, "", &certificate},
	} {
		_, err := p.RegisterEndpoint(c)
		refused(t, err, CodeValidation, field)
	}
	p.DeletedAt = &start
	_, err := p.RegisterEndpoint(RegisterEndpoint{ep1, plainTo(hook), AckAccepted, nil, "", nil})
	refused(t, err, CodeNotFound, "")
}

// What may be asked of an endpoint depends on its state alone.
func TestEndpointStates(t *testing.T) {
	t.Parallel()
	ownAddress := onTheFly(hook, lin1, "")
	for name, history := range map[string][]Payload{
		"unverified": {plainCreated}, "active": {plainCreated, proven}, "paused": {plainCreated, proven, paused},
		"disabled": {plainCreated, proven, disabled}, "own active": {ownAddress}, "own disabled": {ownAddress, disabled},
		"deleted": {plainCreated, EndpointDeleted{}},
	} {
		usable := name == "active" || name == "paused" || name == "own active"
		if p := after(t, history...); p.Usable() != usable {
			t.Errorf("%s: usable is %t", name, p.Usable())
		}
		for verb, c := range map[string]struct {
			decide func(*Endpoint) ([]Decided, error)
			then   map[string]Payload // nil: nothing is decided; what is not named is refused
		}{
			"pause": {func(p *Endpoint) ([]Decided, error) { return p.Pause("a move") }, map[string]Payload{
				"active": paused, "own active": paused, "paused": nil,
			}},
			"resume": {(*Endpoint).Resume, map[string]Payload{
				"paused": EndpointStateChanged{State: EndpointActive}, "active": nil, "own active": nil,
			}},
			"disable": {func(p *Endpoint) ([]Decided, error) { return p.Disable("gone") }, map[string]Payload{
				"unverified": disabled, "active": disabled, "own active": disabled, "paused": disabled, "disabled": nil, "own disabled": nil,
			}},
			"enable": {(*Endpoint).Enable, map[string]Payload{
				"disabled": EndpointStateChanged{State: EndpointUnverified}, "own disabled": EndpointStateChanged{State: EndpointActive},
				"unverified": nil, "active": nil, "paused": nil, "own active": nil,
			}},
			"verify": {func(p *Endpoint) ([]Decided, error) { return p.Verify(plainTo(hook)) }, map[string]Payload{
				"unverified": proven, "own active": proven, "active": nil, "paused": nil,
			}},
			"delete": {(*Endpoint).Delete, map[string]Payload{
				"unverified": EndpointDeleted{}, "active": EndpointDeleted{}, "paused": EndpointDeleted{}, "disabled": EndpointDeleted{},
				"own active": EndpointDeleted{}, "own disabled": EndpointDeleted{},
			}},
			"rotate": {func(p *Endpoint) ([]Decided, error) { return p.RotateSecret(time.Minute, "whpk_2", start) }, rotatesAnywhereBut("deleted")},
		} {
			t.Run(verb+" "+name, func(t *testing.T) {
				t.Parallel()
				got, err := c.decide(after(t, history...))
				then, allowed := c.then[name]
				switch {
				case name == "deleted":
					refused(t, err, CodeNotFound, "")
				case !allowed:
					refusal := refused(t, err, CodeEndpointState, "")
					same(t, "details", refusal.Details, map[string]any{"state": after(t, history...).State})
				case err != nil:
					t.Fatal(err)
				case then == nil:
					same(t, "events", got, []Decided(nil))
				default:
					same(t, "events", got, []Decided{{string(ep1), org1, proj1, then}})
				}
			})
		}
	}
}

func rotatesAnywhereBut(string) map[string]Payload {
	rotated := SigningSecretRotated{start.Add(time.Minute), "whpk_2"}
	return map[string]Payload{
		"unverified": rotated, "active": rotated, "paused": rotated, "disabled": rotated, "own active": rotated, "own disabled": rotated,
	}
}

func TestFoldEndpoint(t *testing.T) {
	t.Parallel()
	elsewhere := plainTo("https://new.example.com")
	for name, c := range map[string]struct {
		history []Payload
		want    func(*Endpoint)
	}{
		"registered": {nil, func(p *Endpoint) { p.State = EndpointUnverified }},
		"verified":   {[]Payload{proven}, func(p *Endpoint) { p.VerifiedAt = new(at(time.Minute)) }},
		"paused": {[]Payload{proven, paused}, func(p *Endpoint) {
			p.VerifiedAt, p.State, p.Reason = new(at(time.Minute)), EndpointPaused, "a move"
		}},
		"with another address that was not proven": {[]Payload{proven, moving}, func(p *Endpoint) {
			p.VerifiedAt, p.Proposed = new(at(time.Minute)), &elsewhere
		}},
		"with another address": {[]Payload{proven, moving, EndpointVerified{elsewhere}}, func(p *Endpoint) {
			p.VerifiedAt, p.Target = new(at(3*time.Minute)), elsewhere
		}},
		"proven while it was paused": {[]Payload{proven, moving, paused, EndpointVerified{elsewhere}}, func(p *Endpoint) {
			p.VerifiedAt, p.Target, p.State, p.Reason = new(at(4*time.Minute)), elsewhere, EndpointPaused, "a move"
		}},
		"with secrets that were replaced": {[]Payload{
			SigningSecretRotated{at(90 * time.Second), "whpk_2"}, SigningSecretRotated{at(hour), "whpk_3"}, SigningSecretRotated{at(2 * hour), "whpk_4"},
		}, func(p *Endpoint) {
			p.State, p.SigningPublicKey, p.OldSecrets = EndpointUnverified, "whpk_4", []time.Time{at(hour), at(2 * hour)}
		}},
		"with secrets that all ended": {[]Payload{SigningSecretRotated{at(hour), "whpk_2"}, SigningSecretRotated{at(2 * time.Minute), "whpk_3"}}, func(p *Endpoint) {
			p.State, p.SigningPublicKey = EndpointUnverified, "whpk_3"
		}},
		"with a certificate": {[]Payload{certified}, func(p *Endpoint) { p.State, p.ClientCertificate = EndpointUnverified, &certificate }},
		"deleted with its certificate": {[]Payload{certified, EndpointDeleted{}}, func(p *Endpoint) {
			p.State, p.DeletedAt = EndpointUnverified, new(at(2*time.Minute))
		}},
		"deleted": {[]Payload{EndpointDeleted{}}, func(p *Endpoint) { p.State, p.DeletedAt = EndpointUnverified, new(at(time.Minute)) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := after(t, append([]Payload{plainCreated}, c.history...)...)
			want := registered(ep1, proj1)
			want.State, want.SigningPublicKey, want.Version = EndpointActive, "whpk_1", int64(len(c.history)+1)
			want.UpdatedAt = at(time.Duration(len(c.history)) * time.Minute)
			c.want(want)
			same(t, "states", got, want)
			raw, err := EncodeState(got)
			if err != nil {
				t.Fatal(err)
			}
			back, err := DecodeState(string(ep1), raw)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "states read back", back, State(got))
		})
	}
}

// A new address or key gets no secret before its receiver has proven it, and what was proven stays in use until then.
func TestUpdateEndpoint(t *testing.T) {
	t.Parallel()
	newURL, key := "https://new.example.com", &ReceiverKey{"id of k", "k"}
	for name, c := range map[string]struct {
		history []Payload
		edit    UpdateEndpoint
		then    *EndpointUpdated // nil: nothing is decided
		moves   bool
	}{
		"before it was proven": {[]Payload{plainCreated}, UpdateEndpoint{URL: ChangeTo(newURL)},
			&EndpointUpdated{[]string{"url"}, plainTo(newURL), AckAccepted, nil, nil, nil}, true},
		"another address": {[]Payload{plainCreated, proven}, UpdateEndpoint{URL: ChangeTo(newURL)},
			&EndpointUpdated{[]string{"url"}, plainTo(hook), AckAccepted, new(plainTo(newURL)), nil, nil}, true},
		"another address while paused": {[]Payload{plainCreated, proven, paused}, UpdateEndpoint{URL: ChangeTo(newURL)},
			&EndpointUpdated{[]string{"url"}, plainTo(hook), AckAccepted, new(plainTo(newURL)), nil, nil}, true},
		"another address while disabled": {[]Payload{plainCreated, proven, disabled}, UpdateEndpoint{URL: ChangeTo(newURL)},
			&EndpointUpdated{[]string{"url"}, plainTo(hook), AckAccepted, new(plainTo(newURL)), nil, nil}, true},
		"a first key": {[]Payload{plainCreated, proven}, UpdateEndpoint{SecretMode: ChangeTo(SecretSealed), ReceiverKey: ChangeTo(key)},
			&EndpointUpdated{[]string{"secret_mode", "receiver_public_key"}, plainTo(hook), AckAccepted, new(sealedTo(hook, "k")), nil, nil}, true},
		"back to the proven address": {[]Payload{plainCreated, proven, moving}, UpdateEndpoint{URL: ChangeTo(hook)},
			&EndpointUpdated{[]string{"url"}, plainTo(hook), AckAccepted, nil, nil, nil}, true},
		"the mode alone": {[]Payload{plainCreated, proven}, UpdateEndpoint{SecretMode: ChangeTo(SecretClaim)},
			&EndpointUpdated{[]string{"secret_mode"}, Target{URL: hook, SecretMode: SecretClaim}, AckAccepted, nil, nil, nil}, false},
		"the mode of what is proposed": {[]Payload{plainCreated, proven, moving}, UpdateEndpoint{SecretMode: ChangeTo(SecretClaim)},
			&EndpointUpdated{[]string{"secret_mode"}, plainTo(hook), AckAccepted, &Target{URL: newURL, SecretMode: SecretClaim}, nil, nil}, false},
		"the demand": {[]Payload{plainCreated, proven}, UpdateEndpoint{AckLevel: ChangeTo(AckProof)},
			&EndpointUpdated{[]string{"ack_level"}, plainTo(hook), AckProof, nil, nil, nil}, false},
		"the mode of a key's own address": {[]Payload{onTheFly(hook, lin1, "")}, UpdateEndpoint{SecretMode: ChangeTo(SecretClaim)},
			&EndpointUpdated{[]string{"secret_mode"}, Target{URL: hook, SecretMode: SecretClaim}, AckAccepted, nil, nil, nil}, false},
		"nothing": {[]Payload{plainCreated, proven}, UpdateEndpoint{URL: ChangeTo(hook), AckLevel: ChangeTo(AckAccepted)}, nil, false},
		"a certificate, at once": {[]Payload{plainCreated, proven, moving}, UpdateEndpoint{Certificate: ChangeTo(&certificate)},
			&EndpointUpdated{[]string{"client_certificate"}, plainTo(hook), AckAccepted, &Target{URL: newURL, SecretMode: SecretPlain}, nil, &certificate}, false},
		"the same certificate": {[]Payload{plainCreated, certified}, UpdateEndpoint{Certificate: ChangeTo(&certificate)},
			&EndpointUpdated{[]string{"client_certificate"}, plainTo(hook), AckAccepted, nil, nil, &certificate}, false},
		"no certificate any more": {[]Payload{plainCreated, certified}, UpdateEndpoint{Certificate: ChangeTo[*ClientCertificate](nil)},
			&EndpointUpdated{[]string{"client_certificate"}, plainTo(hook), AckAccepted, nil, nil, nil}, false},
		"still no certificate": {[]Payload{plainCreated}, UpdateEndpoint{Certificate: ChangeTo[*ClientCertificate](nil)}, nil, false},
		"something else, and the certificate stays": {[]Payload{plainCreated, certified}, UpdateEndpoint{AckLevel: ChangeTo(AckProof)},
			&EndpointUpdated{[]string{"ack_level"}, plainTo(hook), AckProof, nil, nil, &certificate}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := after(t, c.history...)
			got, err := p.Update(c.edit)
			if err != nil {
				t.Fatal(err)
			}
			var want []Decided
			if c.then != nil {
				want = []Decided{{string(ep1), org1, proj1, *c.then}}
			}
			same(t, "events", got, want)
			if p.Moves(c.edit) != c.moves {
				t.Errorf("it moves: %t", p.Moves(c.edit))
			}
		})
	}
	for field, edit := range map[string]UpdateEndpoint{
		"secret_mode": {SecretMode: ChangeTo(SecretMode("open"))}, "receiver_public_key": {SecretMode: ChangeTo(SecretSealed)},
		"ack_level": {AckLevel: ChangeTo(AckClaim)},
	} {
		_, err := after(t, plainCreated).Update(edit)
		refused(t, err, CodeValidation, field)
	}
	_, err := after(t, onTheFly(hook, lin1, "")).Update(UpdateEndpoint{URL: ChangeTo(newURL)})
	refused(t, err, CodeValidation, "url")
}

// Over an address without TLS no certificate can be shown, so the message would go without it: F-33.
func TestClientCertificateNeedsTLS(t *testing.T) {
	t.Parallel()
	const open = "http://127.0.0.1:8080/hook"
	inUse, proposed := plainCreated, EndpointUpdated{Target: plainTo(hook), AckLevel: AckAccepted, Proposed: new(plainTo(open))}
	inUse.URL = open
	for what, c := range map[string]struct {
		history []Payload
		edit    UpdateEndpoint
	}{
		"of the address in use":     {[]Payload{inUse}, UpdateEndpoint{Certificate: ChangeTo(&certificate)}},
		"until the next is proven":  {[]Payload{inUse, EndpointVerified{plainTo(open)}}, UpdateEndpoint{URL: ChangeTo(hook), Certificate: ChangeTo(&certificate)}},
		"of the proposed address":   {[]Payload{plainCreated, proven, proposed}, UpdateEndpoint{Certificate: ChangeTo(&certificate)}},
		"then the address is given": {[]Payload{plainCreated, certified}, UpdateEndpoint{URL: ChangeTo(open)}},
	} {
		if _, err := after(t, c.history...).Update(c.edit); err == nil {
			t.Errorf("%s: it was taken", what)
		} else {
			refused(t, err, CodeValidation, "client_certificate")
		}
	}
	if _, err := after(t, plainCreated, certified).Update(UpdateEndpoint{URL: ChangeTo("HTTPS://new.example.com")}); err != nil {
		t.Error(err)
	}
}

// Whoever was asked must be who is to get the secrets: an answer for what is no longer wanted proves nothing.
func TestVerifyEndpointAfterAChange(t *testing.T) {
	t.Parallel()
	p := after(t, plainCreated, proven, moving)
	for _, answered := range []Target{plainTo(hook), sealedTo("https://new.example.com", "k"), {URL: "https://new.example.com", SecretMode: SecretClaim}} {
		_, err := p.Verify(answered)
		refused(t, err, CodeVersionConflict, "")
	}
	got, err := p.Verify(plainTo("https://new.example.com"))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "events", got, []Decided{{string(ep1), org1, proj1, EndpointVerified{plainTo("https://new.example.com")}}})
}

// at most two replaced secrets sign beside the current one, each to its own end.
func TestRotateSigningSecret(t *testing.T) {
	t.Parallel()
	once, twice := SigningSecretRotated{at(hour), "whpk_2"}, SigningSecretRotated{at(2 * hour), "whpk_3"}
	p := after(t, plainCreated, once, twice)
	for now, grace := range map[time.Duration]time.Duration{10 * time.Minute: 0, hour: MaxSigningGrace, 3 * hour: time.Second} {
		got, err := p.RotateSecret(grace, "whpk_4", at(now))
		if err != nil {
			t.Fatal(err)
		}
		same(t, "events", got, []Decided{{string(ep1), org1, proj1, SigningSecretRotated{at(now + grace), "whpk_4"}}})
	}
	_, err := p.RotateSecret(time.Second, "whpk_4", at(hour-1))
	same(t, "details", refused(t, err, CodeTooManyInGrace, "").Details, map[string]any{"possible_at": at(hour).Format(time.RFC3339Nano)})
	for _, grace := range []time.Duration{-1, MaxSigningGrace + 1} {
		_, err := p.RotateSecret(grace, "whpk_4", at(3*hour))
		refused(t, err, CodeValidation, "grace_seconds")
	}
}

func TestEndpointForKey(t *testing.T) {
	t.Parallel()
	own := &Endpoint{ProjectID: proj1, LineageID: lin1, State: EndpointActive}
	for what, c := range map[string]struct {
		endpoint *Endpoint
		project  ProjectID
		lineage  LineageID
		found    bool
	}{
		"a registered one":     {registered(ep1, proj1), proj1, lin1, true},
		"of another project":   {registered(ep1, "proj_other"), proj1, lin1, false},
		"its own":              {own, proj1, lin1, true},
		"another key's own":    {own, proj1, "lin_other", false},
		"one that was deleted": {&Endpoint{ProjectID: proj1, DeletedAt: &start}, proj1, lin1, false},
	} {
		if err := c.endpoint.ForKey(c.project, c.lineage); (err == nil) != c.found {
			t.Errorf("%s: %v", what, err)
		} else if err != nil {
			refused(t, err, CodeNotFound, "")
		}
	}
}

func TestUpdateKeyRefusesEndpoints(t *testing.T) {
	t.Parallel()
	l := given(t, created(hourly))
	for what, c := range map[string]struct {
		edit  UpdateKey
		code  Code
		field string
	}{
		"of another project": {UpdateKey{EndpointID: ChangeTo(ep2), Endpoint: registered(ep2, "proj_other")}, CodeNotFound, ""},
		"an unknown one":     {UpdateKey{EndpointID: ChangeTo(ep2)}, CodeNotFound, ""},
		"a key's own":        {UpdateKey{EndpointID: ChangeTo(ep2), Endpoint: &Endpoint{ID: ep2, ProjectID: proj1, LineageID: lin1}}, CodeNotFound, ""},
		"and an address": {UpdateKey{EndpointID: ChangeTo(ep2), Endpoint: registered(ep2, proj1), WebhookURL: ChangeTo("https://example.org")},
			CodeValidation, "webhook_endpoint_id"},
	} {
		t.Run(what, func(t *testing.T) {
			c.edit.KeyID, c.edit.Caller, c.edit.NewEndpointID = key1, System(), "ep_new"
			_, err := l.Update(c.edit, testLimits, at(time.Minute))
			refused(t, err, c.code, c.field)
		})
	}
}

// Endpoints of the first revision were all taken at their word.
func TestUpcastEndpointCreated(t *testing.T) {
	t.Parallel()
	got, err := Decode(TypeEndpointCreated, 1, json.RawMessage(`{"url":"https://example.com/hook","lineage_id":"`+string(lin1)+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "payloads", got, Payload(onTheFly(hook, lin1, "")))
	if _, err := Decode(TypeEndpointCreated, 1, json.RawMessage(`[]`)); err == nil {
		t.Error("an upcast that failed was passed over")
	}
}
