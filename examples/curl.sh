#!/bin/sh
# Stream a chat completion with curl. Needs these of the lines that `hpc-serve connect` prints:
#   export OPENAI_BASE_URL=http://127.0.0.1:8081/v1
#   export OPENAI_API_KEY=...
# Usage: echo "What is a node?" | examples/curl.sh MODEL
# or, where nobody else can see the arguments of programs: examples/curl.sh MODEL QUESTION
set -eu
model=${1:?usage: curl.sh MODEL [QUESTION]}
if [ $# -gt 1 ]; then question=$2; elif [ -t 0 ]; then question='Say hello.'; else question=$(cat); fi

escape() { printf '%s' "$1" | sed 's/[\\"]/\\&/g' | tr '\n\t' '  '; }

# Key and prompt reach curl by pipes: arguments are visible to everybody on the machine.
printf 'header = "Authorization: Bearer %s"\n' "$OPENAI_API_KEY" |
    curl --config - --no-buffer --silent --show-error --fail-with-body --noproxy '*' \
        --header 'Content-Type: application/json' --data @/dev/fd/3 \
        "$OPENAI_BASE_URL/chat/completions" 3<<BODY
{"model": "$(escape "$model")", "stream": true, "max_tokens": 64,
 "messages": [{"role": "user", "content": "$(escape "$question")"}]}
BODY
