package stepwell

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// TestOrderHash holds the hash against the vectors beside the proto.
func TestOrderHash(t *testing.T) {
	text, err := os.ReadFile("../../proto/order_hash.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Vectors []struct {
			About string
			Calls []struct {
				Kind        int32
				Name        string
				Fingerprint string
			}
			Hashes []string
		}
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Vectors) == 0 {
		t.Fatal("there are no vectors")
	}
	for _, vector := range file.Vectors {
		t.Run(vector.About, func(t *testing.T) {
			var order orderHash
			for place, call := range vector.Calls {
				fingerprint, err := hex.DecodeString(call.Fingerprint)
				if err != nil {
					t.Fatal(err)
				}
				order = chained(order, pb.StepKind(call.Kind), call.Name, fingerprint)
				if got := hex.EncodeToString(order[:]); got != vector.Hashes[place+1] {
					t.Fatalf("after call %d: %s, not %s", place, got, vector.Hashes[place+1])
				}
			}
		})
	}
}
