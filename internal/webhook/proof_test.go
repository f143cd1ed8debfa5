package webhook

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Computed with openssl: printf 'rekey-ack-v1.rot_1.msg_1' | openssl dgst -sha256 -hmac secret -binary | base64
func TestProof_KnownAnswer(t *testing.T) {
	t.Parallel()
	if got, want := Proof("secret", "rot_1", "msg_1"), "v1,dvy3bg86mWpXo1Ox8807YJwGrBBLATEs+Vj9NZgCkNA="; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	// The same with the challenge, under the 32 bytes 0x61 of the secret.
	secret := parseSecret(t, "whsec_"+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("a"), 32)))
	got, err := AnswerChallenge(secret, "chl_0123")
	if want := "v1,gAnHwT2SXDbX0ymh4FjdEh2837ZzfQtPCRHz738MeXE="; err != nil || got != want {
		t.Errorf("got %q, want %q, %v", got, want, err)
	}
}

// only the proof of this secret, rotation and message counts, in its one spelling.
func TestCheckProof(t *testing.T) {
	t.Parallel()
	proof := Proof("secret", "rot_1", "msg_1")
	hash := ProofHash(proof)
	if len(hash) != 32 || !CheckProof(proof, hash) {
		t.Fatal("the right proof does not count")
	}
	for name, wrong := range map[string]string{
		"none": "", "of another secret": Proof("Secret", "rot_1", "msg_1"), "of another rotation": Proof("secret", "rot_2", "msg_1"),
		"of another message": Proof("secret", "rot_1", "msg_2"), "shifted": Proof("secret", "rot_1.m", "sg_1"), "without version": strings.TrimPrefix(proof, "v1,"),
		"of another version": "v2" + strings.TrimPrefix(proof, "v1"), "unpadded": strings.TrimRight(proof, "="), "with a space": proof + " ",
		"the hash": string(hash), "the hash in base64": "v1," + base64.StdEncoding.EncodeToString(hash), "upper case": strings.ToUpper(proof),
	} {
		if CheckProof(wrong, hash) {
			t.Errorf("a proof %s counts", name)
		}
	}
	for name, stored := range map[string][]byte{"nil": nil, "empty": {}, "short": hash[:31], "long": append(append([]byte(nil), hash...), 0)} {
		if CheckProof(proof, stored) || CheckProof("", stored) {
			t.Errorf("%s: something counts without a stored hash", name)
		}
	}
}

func TestChallenge(t *testing.T) {
	t.Parallel()
	challenge, err := NewChallenge(nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := NewChallenge(nil); again == challenge || !validID(challenge) {
		t.Errorf("challenges %q, %q", challenge, again)
	}
	if _, err := NewChallenge(strings.NewReader("short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short randomness: %v", err)
	}
	current, old, other := newSecret(t), newSecret(t), newSecret(t)
	answer := func(s Secret) string {
		t.Helper()
		text, err := AnswerChallenge(s, challenge)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for name, test := range map[string]struct {
		header string
		want   bool
	}{
		"current": {answer(current), true}, "old": {answer(old), true}, "other": {answer(other), false}, "none": {"", false},
		"the challenge": {challenge, false}, "without version": {answer(current)[3:], false},
	} {
		if got := CheckChallenge(test.header, challenge, current, old, Secret{}); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if CheckChallenge("", challenge) || CheckChallenge(answer(current), challenge+"x", current) {
		t.Error("an answer counts for another challenge, or without secrets")
	}
	// A receiver that answered this would sign a message for whoever asks.
	for _, question := range []string{"", "0123", testID + ".1790000000.{}", "chl_1.1790000000.{}", "chl_ 1"} {
		if got, err := AnswerChallenge(current, question); !errors.Is(err, ErrMalformedChallenge) || got != "" {
			t.Errorf("%q was answered: %v", question, err)
		}
	}
	for name, secret := range map[string]Secret{"zero": {}, "asymmetric": newSigningKey(t)} {
		if _, err := AnswerChallenge(secret, challenge); !errors.Is(err, ErrNoSecret) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A sealed challenge shows that secrets sealed to the key will be readable, too.
func TestEndpointVerification_Sealed(t *testing.T) {
	t.Parallel()
	key := newReceiverKey(t)
	v := Verification{OrganizationID: "org_1", EndpointID: "ep_1", Challenge: "chl_canary", SealTo: key.Public()}
	body, err := EndpointVerification(testAt, v, testID)
	if err != nil || bytes.Contains(body, []byte("canary")) {
		t.Fatalf("%s, %v", body, err)
	}
	if got, err := ReadVerification(body, testID, newReceiverKey(t), key); err != nil || got != v.Challenge {
		t.Errorf("%q, %v", got, err)
	}
	moved := bytes.Replace(body, []byte("ep_1"), []byte("ep_2"), 1)
	for name, try := range map[string]func() (string, error){
		"another key":      func() (string, error) { return ReadVerification(body, testID, newReceiverKey(t)) },
		"no key":           func() (string, error) { return ReadVerification(body, testID) },
		"another message":  func() (string, error) { return ReadVerification(body, testID+"x", key) },
		"another endpoint": func() (string, error) { return ReadVerification(moved, testID, key) },
	} {
		if got, err := try(); !errors.Is(err, ErrCannotOpen) || got != "" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	plain, err := EndpointVerification(testAt, Verification{OrganizationID: "org_1", EndpointID: "ep_1", Challenge: "chl_1"}, testID)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ReadVerification(plain, testID); err != nil || got != "chl_1" {
		t.Errorf("plain: %q, %v", got, err)
	}
	for _, text := range []string{"", "{}", `{"type":"endpoint.test"}`, `{"type":"endpoint.verification","data":1}`, `{"type":"endpoint.verification","data":{"sealed_challenge":{}}}`} {
		if got, err := ReadVerification([]byte(text), testID, key); !errors.Is(err, ErrNotVerification) || got != "" {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

// The proof travels through the real Sender and Receiver, also with a repetition, whose first answer may have been lost.
func TestSender_Proof(t *testing.T) {
	t.Parallel()
	key := newReceiverKey(t)
	sealed, err := SealSecret(key.Public(), sealableRotation(), testID, "rk_live_canary")
	if err != nil {
		t.Fatal(err)
	}
	body, err := RotationCreated(testAt, sealableRotation(), sealed)
	if err != nil {
		t.Fatal(err)
	}
	var box inbox
	receiver := NewReceiver(ReceiverConfig{Handle: box.handle, Answer: func(m Received) http.Header {
		r, carried, err := ReadRotation(m.Body)
		if err != nil {
			return nil
		}
		secret, err := carried.Open(r, m.ID, key)
		if err != nil {
			return nil
		}
		return http.Header{HeaderAck: {Proof(secret, r.RotationID, m.ID)}}
	}})
	request := requestTo(t, serve(t, receiver.ServeHTTP).URL)
	receiver.AddSecret(request.Secrets[0])
	request.Body = body
	right := ExpectProof(ProofHash(Proof("rk_live_canary", testRotation.RotationID, testID)))
	wrong := ExpectProof(ProofHash(Proof("rk_live_canary", testRotation.RotationID, "msg_other")))
	sender := devSender(t)
	for name, test := range map[string]struct {
		expect func(http.Header) bool
		must   bool
		want   Outcome
		proved bool
	}{
		"right": {right, true, Delivered, true}, "right, not demanded": {right, false, Delivered, true}, "wrong": {wrong, true, AckMissing, false},
		"wrong, not demanded": {wrong, false, Delivered, false}, "none expected": {nil, false, Delivered, false}, "nothing can prove": {nil, true, AckMissing, false},
	} {
		request.Expect, request.MustProve = test.expect, test.must
		if result := sender.Send(t.Context(), request); result.Outcome != test.want || result.Proved != test.proved || result.Status != 204 {
			t.Errorf("%s: %+v", name, result)
		}
	}
	if len(box.received) != 1 {
		t.Errorf("handled %d times", len(box.received))
	}
}

// Proof counts in a 2xx answer that arrived, and in nothing else.
func TestSender_ProofNeedsAGoodAnswer(t *testing.T) {
	t.Parallel()
	proof := Proof("secret", "rot_1", testID)
	for name, answer := range map[string]func(http.ResponseWriter){
		"500":      func(w http.ResponseWriter) { w.WriteHeader(500) },
		"redirect": func(w http.ResponseWriter) { w.WriteHeader(307) },
		"twice":    func(w http.ResponseWriter) { w.Header().Add(HeaderAck, proof) },
		"cut off": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "99")
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
	} {
		server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(HeaderAck, proof)
			answer(w)
		})
		request := requestTo(t, server.URL)
		request.Expect, request.MustProve = ExpectProof(ProofHash(proof)), true
		if result := devSender(t).Send(t.Context(), request); result.Proved || result.Outcome.Delivered() {
			t.Errorf("%s: %+v", name, result)
		}
	}
}

func TestExpectChallenge(t *testing.T) {
	t.Parallel()
	secret := newSecret(t)
	answer, err := AnswerChallenge(secret, "chl_1")
	if err != nil {
		t.Fatal(err)
	}
	expect := ExpectChallenge("chl_1", secret)
	if !expect(http.Header{HeaderChallenge: {answer}}) {
		t.Error("the right answer does not count")
	}
	for name, header := range map[string]http.Header{
		"none": {}, "nil": nil, "two": {HeaderChallenge: {answer, answer}}, "under another name": {HeaderAck: {answer}}, "wrong": {HeaderChallenge: {answer + "x"}},
	} {
		if expect(header) {
			t.Errorf("%s counts", name)
		}
	}
}
