package stepwell

import "time"

// SetSilence changes how long a silent stream is trusted. Not while a worker is connected.
func SetSilence(beforePing, beforeDeath time.Duration) {
	silenceBeforePing, silenceBeforeDeath = beforePing, beforeDeath
}
