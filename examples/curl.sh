#!/bin/sh
# Stream a chat completion with curl. Needs the two lines that `hpc-serve connect` prints:
#   export OPENAI_BASE_URL=http://127.0.0.1:8081/v1
#   export OPENAI_API_KEY=...
# Usage: examples/curl.sh MODEL [QUESTION]
set -eu
model=${1:?usage: curl.sh MODEL [QUESTION]}
question=${2:-Say hello.}

escape() { printf '%s' "$1" | sed 's/[\\"]/\\&/g' | tr '\n' ' '; }

# The key goes through standard input: arguments are visible to everybody on the machine.
printf 'header = "Authorization: Bearer %s"\n' "$OPENAI_API_KEY" |
    curl --config - --no-buffer --silent --show-error --fail-with-body --noproxy 127.0.0.1 \
        --header 'Content-Type: application/json' \
        --data "{\"model\": \"$(escape "$model")\", \"stream\": true, \"max_tokens\": 64,
            \"messages\": [{\"role\": \"user\", \"content\": \"$(escape "$question")\"}]}" \
        "$OPENAI_BASE_URL/chat/completions"
