package verifier

// HintSubject carries positions that the log has reached. What is sent there only makes somebody look at the log sooner.
const HintSubject = "rekey.hint"
