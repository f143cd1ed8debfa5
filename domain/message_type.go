package domain

import (
	"slices"
	"strings"
)

// MessageType is what a webhook tells of.
type MessageType string

// Types of messages that endpoints are told something with. A new secret goes to the receiver of its key, whatever that one
// chose, and so do tests and challenges.
const (
	MessageRotationCreated      MessageType = "key.rotation.created"
	MessageRotationAcknowledged MessageType = "key.rotation.acknowledged"
	MessageRotationStalled      MessageType = "key.rotation.stalled"
	MessageRotationBlocked      MessageType = "key.rotation.blocked"
	MessageRotationDeferred     MessageType = "key.rotation.deferred"
	MessageRotationCompleted    MessageType = "key.rotation.completed"
	MessageRotationCancelled    MessageType = "key.rotation.cancelled"
	MessageRotationClaimedAgain MessageType = "key.rotation.claimed_again"
	MessageVersionRetired       MessageType = "key.version.retired"
	MessageUsedInGrace          MessageType = "key.version.used_in_grace"
	MessageKeyExpiring          MessageType = "key.expiring"
	MessageKeyRevoked           MessageType = "key.revoked"
	MessageEndpointDisabled     MessageType = "endpoint.disabled"
	MessageEndpointFailing      MessageType = "endpoint.failing"
)

// MessageTypes lists the types that an endpoint can choose from, in the order of the page for receivers.
func MessageTypes() []MessageType {
	return []MessageType{
		MessageRotationCreated, MessageRotationAcknowledged, MessageRotationStalled, MessageRotationBlocked, MessageRotationDeferred,
		MessageRotationCompleted, MessageRotationCancelled, MessageRotationClaimedAgain, MessageVersionRetired, MessageUsedInGrace,
		MessageKeyExpiring, MessageKeyRevoked, MessageEndpointDisabled, MessageEndpointFailing,
	}
}

// validateMessageTypes checks a choice and returns it in the usual order, each once. None is all of them, so a list that
// is there and empty is refused: it looks like the opposite.
func validateMessageTypes(chosen []MessageType) ([]MessageType, error) {
	if chosen == nil {
		return nil, nil
	}
	const field = "event_types"
	if len(chosen) == 0 {
		return nil, InvalidField(field, "is an empty list", "name at least one type, or send null for all")
	}
	known := MessageTypes()
	for _, kind := range chosen {
		if !slices.Contains(known, kind) {
			return nil, InvalidField(field, "has a type that does not exist", "choose from "+joinedTypes(known))
		}
	}
	return slices.DeleteFunc(known, func(kind MessageType) bool { return !slices.Contains(chosen, kind) }), nil
}

func joinedTypes(types []MessageType) string {
	words := make([]string, len(types))
	for i, kind := range types {
		words[i] = string(kind)
	}
	return strings.Join(words, ", ")
}
