package webhook

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// The headers with which a receiver's answer proves something.
const (
	// HeaderAck proves that the receiver can read the new secret.
	HeaderAck = "Rekey-Ack"
	// HeaderChallenge proves that the receiver holds the signing secret.
	HeaderChallenge = "Rekey-Challenge"
)

const (
	proofPrefix     = "v1,"
	proofContext    = "rekey-ack-v1."
	challengePrefix = "chl_"
	challengeBytes  = 24
)

// ErrMalformedChallenge says that a challenge is not one to answer.
var ErrMalformedChallenge = errors.New("webhook challenge is malformed")

// Proof gives the value of the rekey-ack header with which a receiver shows that it can read the new secret: an HMAC
// under the secret over the rotation and the message.
func Proof(secret, rotationID, messageID string) string {
	hash := hmac.New(sha256.New, []byte(secret))
	hash.Write([]byte(proofContext + rotationID + "." + messageID))
	return proofPrefix + base64.StdEncoding.EncodeToString(hash.Sum(nil))
}

// ProofHash gives the SHA-256 of a proof. It is made when the secret is, and stored in its place: the proof can be checked
// later by those who do not know the secret, and cannot be made from what is stored.
func ProofHash(proof string) []byte {
	sum := sha256.Sum256([]byte(proof))
	return sum[:]
}

// CheckProof says whether the value of a rekey-ack header is the proof with this hash. The time it takes does not depend
// on how much of it is right. Without a stored hash nothing is proof.
func CheckProof(header string, storedHash []byte) bool {
	return subtle.ConstantTimeCompare(ProofHash(header), storedHash) == 1
}

// ExpectProof is a Request.Expect that wants the proof with this hash.
func ExpectProof(storedHash []byte) func(http.Header) bool {
	return func(answer http.Header) bool {
		values := answer.Values(HeaderAck)
		return len(values) == 1 && CheckProof(values[0], storedHash)
	}
}

// NewChallenge makes what an endpoint has to answer before secrets go there; nil means crypto/rand.
func NewChallenge(random io.Reader) (string, error) {
	if random == nil {
		random = rand.Reader
	}
	raw := make([]byte, challengeBytes)
	if _, err := io.ReadFull(random, raw); err != nil {
		return "", fmt.Errorf("read randomness for challenge: %w", err)
	}
	return challengePrefix + base64.RawURLEncoding.EncodeToString(raw), nil
}

// AnswerChallenge gives the value of the rekey-challenge header: an HMAC-SHA256 under the bytes of the shared signing
// secret over the challenge. Anything but a challenge is refused: a receiver that answers whatever it is asked would sign
// messages for others, and no challenge has the full stops of a signed message.
func AnswerChallenge(secret Secret, challenge string) (string, error) {
	if !strings.HasPrefix(challenge, challengePrefix) || !validID(challenge) {
		return "", ErrMalformedChallenge
	}
	if secret.IsZero() || secret.asymmetric {
		return "", ErrNoSecret
	}
	hash := hmac.New(sha256.New, secret.key())
	hash.Write([]byte(challenge))
	return proofPrefix + base64.StdEncoding.EncodeToString(hash.Sum(nil)), nil
}

// CheckChallenge says whether the value of a rekey-challenge header answers the challenge under one of the secrets.
func CheckChallenge(header, challenge string, secrets ...Secret) bool {
	matched := false
	for _, secret := range secrets {
		want, err := AnswerChallenge(secret, challenge)
		matched = err == nil && hmac.Equal([]byte(header), []byte(want)) || matched
	}
	return matched
}

// ExpectChallenge is a Request.Expect that wants the answer to a challenge.
func ExpectChallenge(challenge string, secrets ...Secret) func(http.Header) bool {
	return func(answer http.Header) bool {
		values := answer.Values(HeaderChallenge)
		return len(values) == 1 && CheckChallenge(values[0], challenge, secrets...)
	}
}
