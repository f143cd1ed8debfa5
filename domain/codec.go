package domain

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
)

// codec reads one type of event. Revisions count from 1; a payload stored at an older revision is brought up one
// revision at a time by upcasts, which are pure functions on the stored JSON. Stored rows never change.
type codec struct {
	revision int
	decode   func(json.RawMessage) (Payload, error)
	upcasts  []func(json.RawMessage) (json.RawMessage, error) // upcasts[i] takes revision i+1 to i+2
}

var codecs = map[Type]codec{
	TypeCreated:              {3, decodeAs[Created], []func(json.RawMessage) (json.RawMessage, error){fieldsAdded, fieldsAdded}},
	TypeUpdated:              {2, decodeAs[Updated], []func(json.RawMessage) (json.RawMessage, error){fieldsAdded}},
	TypeRotated:              {2, decodeAs[Rotated], []func(json.RawMessage) (json.RawMessage, error){fieldsAdded}},
	TypeRotationAcknowledged: {1, decodeAs[RotationAcknowledged], nil},
	TypeRotationCancelled:    {2, decodeAs[RotationCancelled], []func(json.RawMessage) (json.RawMessage, error){fieldsAdded}},
	TypeRotationStalled:      {1, decodeAs[RotationStalled], nil},
	TypeRotationRedelivered:  {1, decodeAs[RotationRedelivered], nil},
	TypeRotationTimedOut:     {1, decodeAs[RotationTimedOut], nil},
	TypeRotationRolledBack:   {1, decodeAs[RotationRolledBack], nil},
	TypeRotationDeferred:     {1, decodeAs[RotationDeferred], nil},
	TypeRotationBlocked:      {1, decodeAs[RotationBlocked], nil},
	TypeGraceChanged:         {1, decodeAs[GraceChanged], nil},
	TypeGraceExpired:         {3, decodeAs[GraceExpired], []func(json.RawMessage) (json.RawMessage, error){fieldsAdded, fieldsAdded}},
	TypeExpired:              {1, decodeAs[Expired], nil},
	TypeRevoked:              {1, decodeAs[Revoked], nil},
	TypeUsed:                 {1, decodeUsed, nil},
	TypeLeakReported:         {1, decodeAs[LeakReported], nil},
	TypeKeyExpiring:          {1, decodeAs[KeyExpiring], nil},
	TypeUsedInGrace:          {2, decodeAs[UsedInGrace], []func(json.RawMessage) (json.RawMessage, error){fieldsAdded}},
	TypeRotationClaimedAgain: {1, decodeAs[RotationClaimedAgain], nil},
	TypeOrganizationCreated:  {1, decodeAs[OrganizationCreated], nil},
	TypeOrganizationUpdated:  {1, decodeAs[OrganizationUpdated], nil},
	TypeProjectCreated:       {4, decodeAs[ProjectCreated], []func(json.RawMessage) (json.RawMessage, error){fieldsAdded, fieldsAdded, fieldsAdded}},
	TypeProjectUpdated:       {3, decodeAs[ProjectUpdated], []func(json.RawMessage) (json.RawMessage, error){fieldsAdded, fieldsAdded}},
	TypeProjectDeleted:       {1, decodeAs[ProjectDeleted], nil},
	TypeEnvironmentCreated:   {1, decodeAs[EnvironmentCreated], nil},
	TypeEndpointCreated:      {4, decodeAs[EndpointCreated], []func(json.RawMessage) (json.RawMessage, error){endpointModes, fieldsAdded, fieldsAdded}},
	TypeEndpointVerified:     {1, decodeAs[EndpointVerified], nil},
	TypeEndpointUpdated:      {3, decodeAs[EndpointUpdated], []func(json.RawMessage) (json.RawMessage, error){fieldsAdded, fieldsAdded}},
	TypeEndpointStateChanged: {1, decodeAs[EndpointStateChanged], nil},
	TypeSigningSecretRotated: {1, decodeAs[SigningSecretRotated], nil},
	TypeEndpointDeleted:      {1, decodeAs[EndpointDeleted], nil},
	TypeEndpointFailing:      {1, decodeAs[EndpointFailing], nil},
	TypeRedeliveryRequested:  {1, decodeAs[RedeliveryRequested], nil},
}

func decodeAs[P Payload](raw json.RawMessage) (Payload, error) {
	var p P
	err := json.Unmarshal(raw, &p)
	return p, err
}

// fieldsAdded takes a payload to a revision that only has more fields, whose absence means what it always meant.
func fieldsAdded(raw json.RawMessage) (json.RawMessage, error) { return raw, nil }

// Encode returns the wire form of a payload and its revision.
func Encode(p Payload) (raw json.RawMessage, revision int, err error) {
	c, ok := codecs[p.Type()]
	if !ok {
		return nil, 0, fmt.Errorf("encode event: unknown type %q", p.Type())
	}
	raw, err = json.Marshal(p)
	if err != nil {
		return nil, 0, fmt.Errorf("encode event %s: %w", p.Type(), err)
	}
	return raw, c.revision, nil
}

// Decode reads a payload of any known revision. An unknown type or a newer revision is an error: a reader that walked
// past what it cannot read would serve a wrong state, so it must stop instead.
func Decode(t Type, revision int, raw json.RawMessage) (Payload, error) {
	c, ok := codecs[t]
	if !ok {
		return nil, fmt.Errorf("decode event: type %q is not known to this version", t)
	}
	if revision < 1 || revision > c.revision {
		return nil, fmt.Errorf("decode event %s: revision %d is not known to this version", t, revision)
	}
	for _, upcast := range c.upcasts[revision-1:] {
		var err error
		if raw, err = upcast(raw); err != nil {
			return nil, fmt.Errorf("upcast event %s: %w", t, err)
		}
	}
	p, err := c.decode(raw)
	if err != nil {
		return nil, fmt.Errorf("decode event %s: %w", t, err)
	}
	return p, nil
}

// Types lists every type of event, in no order.
func Types() []Type {
	out := make([]Type, 0, len(codecs))
	for t := range codecs {
		out = append(out, t)
	}
	return out
}

// Snake writes the type as one lower-case token, as it stands in subjects and CloudEvents types.
func (t Type) Snake() string {
	var b strings.Builder
	for i, r := range string(t) {
		if unicode.IsUpper(r) {
			if i > 0 {
				b.WriteByte('_')
			}
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}
