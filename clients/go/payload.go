package stepwell

import (
	"encoding/json"
	"fmt"
	"reflect"

	"google.golang.org/grpc/codes"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// Converter turns values into payloads and back. The default one writes JSON.
type Converter interface {
	// ToPayload spells a value.
	ToPayload(value any) (*pb.Payload, error)
	// FromPayload reads a payload into what target points to. A payload without a body is the null value.
	FromPayload(payload *pb.Payload, target any) error
}

// Codec changes payloads on their way to the service and back: to encrypt or to compress them, say. Stepwell stores what
// Encode gives, and never looks inside.
type Codec interface {
	// Encode changes what goes out.
	Encode(payload *pb.Payload) (*pb.Payload, error)
	// Decode turns back what Encode gave.
	Decode(payload *pb.Payload) (*pb.Payload, error)
}

// payloadMost is what the service takes of one payload.
const payloadMost = 2 << 20

type jsonConverter struct{}

func (jsonConverter) ToPayload(value any) (*pb.Payload, error) {
	if value == nil {
		return &pb.Payload{}, nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("a %T is not to be written as JSON: %w", value, err)
	}
	return &pb.Payload{Body: &pb.Payload_Json{Json: string(text)}}, nil
}

func (jsonConverter) FromPayload(payload *pb.Payload, target any) error {
	text := "null"
	switch body := payload.GetBody().(type) {
	case nil:
	case *pb.Payload_Json:
		text = body.Json
	default:
		return fmt.Errorf("the payload has a %T and no JSON: a converter or a codec is needed", body)
	}
	if err := json.Unmarshal([]byte(text), target); err != nil {
		return fmt.Errorf("the payload does not fit a %T: %w", target, err)
	}
	if text == "null" {
		// The JSON of Go leaves what is there.
		reflect.ValueOf(target).Elem().SetZero()
	}
	return nil
}

// encoded puts a codec around a converter, if there is one, and refuses what is too large where it is made: it would end
// the stream that is to carry it.
type encoded struct {
	inner Converter
	codec Codec
}

func (e encoded) ToPayload(value any) (*pb.Payload, error) {
	payload, err := e.inner.ToPayload(value)
	// The null value has nothing to hide.
	if err == nil && e.codec != nil && payload.GetBody() != nil {
		payload, err = e.codec.Encode(payload)
	}
	if size := len(payload.GetJson()) + len(payload.GetData()); err == nil && size > payloadMost {
		problem := fmt.Sprintf("a payload has at most %d bytes, and this has %d: send a reference", payloadMost, size)
		return nil, &Error{Code: codes.InvalidArgument, Reason: ErrInvalidField.Reason, Message: problem}
	}
	return payload, err
}

func (e encoded) FromPayload(payload *pb.Payload, target any) (err error) {
	if target == nil {
		return nil
	}
	if e.codec != nil && payload.GetBody() != nil {
		if payload, err = e.codec.Decode(payload); err != nil {
			return err
		}
	}
	return e.inner.FromPayload(payload, target)
}

// converted puts a converter around a function.
func converted[C, I, O any](
	converter Converter, function func(C, I) (O, error),
) func(C, *pb.Payload) (*pb.Payload, error) {
	return func(of C, payload *pb.Payload) (*pb.Payload, error) {
		var input I
		if err := converter.FromPayload(payload, &input); err != nil {
			return nil, &ApplicationError{Type: "InvalidInput", Message: err.Error(), NonRetryable: true, Cause: err}
		}
		result, err := function(of, input)
		if err != nil {
			return nil, err
		}
		return converter.ToPayload(result)
	}
}
